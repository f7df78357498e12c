"""A teacher inside the training step: labels the clips of a batch that have no labels, as a label pass would."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.checkpoints import Trained
from epfv2_jax.data import pipeline
from epfv2_jax.models.base import PoseModel


@dataclasses.dataclass(frozen=True)
class OnlineTeacher:
    """Labels pseudo clips with a frozen model, from an empty state and from images without augmentation.

    A label pass streams whole sequences, so the two agree for clips that are whole sequences.
    """

    teacher: Trained
    max_sigma_m: float | None = None  # as in `PseudoConfig`

    def __call__(self, batch: structs.Batch) -> structs.Batch:
        """Returns `batch` with labels as targets where `targets.pseudo`. Its images must not be augmented yet."""
        return _label(self.teacher.model, self.max_sigma_m, self.teacher.variables, batch)


def _label_batch(model: PoseModel, max_sigma_m: float | None, variables: Any, batch: structs.Batch) -> structs.Batch:
    frames, targets = batch.frames, batch.targets
    predictions = model.apply(variables, frames)
    pseudo = targets.pseudo[:, None, None]
    joints_m = predictions.joints_headset_m
    # As in a label pass, frames that lack a view are left out.
    sure = (frames.frame_valid & frames.view_valid.all(-1) & jnp.isfinite(joints_m).all(axis=(-2, -1)))[..., None]
    sure = jnp.broadcast_to(sure, targets.joint_valid.shape)
    cholesky_m = targets.cholesky_m
    if predictions.distribution is not None:
        cholesky_m = predictions.distribution.cholesky_m
        if max_sigma_m is not None:
            sure = sure & pipeline.confident(cholesky_m, max_sigma_m)
    return batch.replace(
        targets=targets.replace(
            joints_headset_m=jnp.where(pseudo[..., None], joints_m, targets.joints_headset_m),
            joint_valid=jnp.where(pseudo, sure, targets.joint_valid),
            cholesky_m=jnp.where(pseudo[..., None, None], cholesky_m, targets.cholesky_m),
        )
    )


_label = jax.jit(_label_batch, static_argnums=(0, 1))
