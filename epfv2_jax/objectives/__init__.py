"""Objectives by name. To add one: write a module with an `Objective` and give it a line in `OBJECTIVES`."""

from typing import Annotated, Any, Protocol

import jax

from epfv2_jax import structs
from epfv2_jax.core.config import OneOf
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.objectives.pose import PoseObjective
from epfv2_jax.objectives.terms import Term


class Objective(Protocol):
    """What training minimises: a pure function of predictions and batch."""

    config: Any  # its own frozen dataclass, with a field `kind`: its key in OBJECTIVES
    skeleton: Skeleton  # J joints, in the order of the predictions

    def __call__(
        self, predictions: structs.Predictions, batch: structs.Batch, progress: jax.Array | float
    ) -> dict[str, Term]:
        """Returns the terms over this batch by name. The train step divides each by the count of the whole batch."""

    def uses_teacher_uncertainty(self, predicts_distribution: bool) -> bool:
        """Returns whether pseudo labels must carry the teacher's uncertainty, for a model that predicts one or not."""


#: By the `kind` of their configuration. A configuration that names no kind is that of the paper's objective.
OBJECTIVES: dict[str, type[Objective]] = {
    "pose": PoseObjective,
}

#: The type of a configuration field that takes the configuration of any objective.
ObjectiveConfig = Annotated[Any, OneOf(OBJECTIVES, default="pose")]


def build(config: Any, skeleton: Skeleton) -> Objective:
    """Returns the objective that `config` describes, for the joints of its data."""
    return OBJECTIVES[config.kind](config, skeleton)
