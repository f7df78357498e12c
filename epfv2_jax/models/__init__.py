"""Models by name. To add one: write a module with a `PoseModel` (see `models.base`) and add it to `MODELS`."""

from typing import Annotated, Any

from epfv2_jax.core.config import OneOf
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models.base import PoseModel
from epfv2_jax.models.baselines.egoposeformer_v1.model import EPFv1
from epfv2_jax.models.baselines.lstm import LSTM
from epfv2_jax.models.baselines.unrealego.model import UnrealEgo
from epfv2_jax.models.epfv2.model import EPFv2

#: By the `kind` of their configuration; a configuration without a kind is EPFv2's.
MODELS: dict[str, type[PoseModel]] = {
    "epfv2": EPFv2,
    "epfv1": EPFv1,
    "unrealego": UnrealEgo,
    "lstm": LSTM,
}

#: The type of a configuration field that takes the configuration of any model.
ModelConfig = Annotated[Any, OneOf(MODELS, default="epfv2")]


def build(config: Any, skeleton: Skeleton, layout: RigLayout) -> PoseModel:
    """Returns the model that `config` describes, for the joints and views of its data."""
    return MODELS[config.kind](config, skeleton, layout)
