"""A teacher in the training step: labels the clips of a batch that have none, as a label pass would."""

import dataclasses

import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.data import pipeline
from epfv2_jax.models.epfv2 import model as epfv2


@dataclasses.dataclass(frozen=True)
class OnlineTeacher:
    """Labels pseudo clips by a frozen model, from an empty state and from the images as they were recorded.

    A label pass streams whole sequences instead, so the labels of a clip are equal where the clip is its sequence.
    """

    model: epfv2.EPFv2
    variables: dict
    max_sigma_m: float | None = None  # as in `PseudoConfig`

    def __call__(self, batch: structs.Batch) -> structs.Batch:
        """Returns `batch` with targets where `targets.pseudo`; its images must not be augmented yet."""
        return _label(self.model, self.max_sigma_m, self.variables, batch)


def _label_batch(model: epfv2.EPFv2, max_sigma_m: float | None, variables: dict, batch: structs.Batch) -> structs.Batch:
    frames, targets = batch.frames, batch.targets
    predictions = model.apply(variables, frames)
    pseudo = targets.pseudo[:, None, None]
    joints_m, cholesky_m = predictions.joints_headset_m, predictions.cholesky_m
    # As in a label pass: frames that lack a view are no teacher's business.
    sure = (frames.frame_valid & frames.view_valid.all(-1) & jnp.isfinite(joints_m).all(axis=(-2, -1)))[..., None]
    sure = jnp.broadcast_to(sure, targets.joint_valid.shape)
    if cholesky_m is None:
        cholesky_m = targets.cholesky_m
    elif max_sigma_m is not None:
        sure = sure & pipeline.confident(cholesky_m, max_sigma_m)
    return batch.replace(
        targets=targets.replace(
            joints_headset_m=jnp.where(pseudo[..., None], joints_m, targets.joints_headset_m),
            joint_valid=jnp.where(pseudo, sure, targets.joint_valid),
            cholesky_m=jnp.where(pseudo[..., None, None], cholesky_m, targets.cholesky_m),
        )
    )


_label = jax.jit(_label_batch, static_argnums=(0, 1))
