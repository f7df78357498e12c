"""A trained model in memory, and what its users must know that no array says."""

import dataclasses
from typing import Any

from epfv2_jax.checkpoints.about import About
from epfv2_jax.models.base import PoseModel

NOT_STATED = "not stated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores in the `metrics.json` of an evaluation. Lengths in cm; None: could not be measured."""

    split: str
    step: int  # of the checkpoint
    hide_views: bool = False  # scored without images
    metrics: dict[str, float | None]  # PoseMetrics.summary
    baselines: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What users of a packaged model must know."""

    licence: str = NOT_STATED  # of the weights
    training_data: str = NOT_STATED
    scores: Scores | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model from a checkpoint. No mesh, optimizer, data set or flag is needed to use it."""

    model: PoseModel
    variables: Any  # numpy arrays on the host
    about: About  # the run's configuration and the format of its records
    step: int
    kind: str  # "best" or "latest"
    card: Card | None = None  # of a packaged model
