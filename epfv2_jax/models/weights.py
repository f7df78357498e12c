"""Released weights of whole models. To add one: write a function that reads its files, and a line in IMPORTERS."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models.encoders.weights.reading import TensorFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model with released weights."""

    config: Any  # of the model
    skeleton: Skeleton
    layout: RigLayout
    image_size_hw: tuple[int, int]
    variables: Mapping[str, Any]  # numpy, float32
    used: int  # tensors of the files
    ignored: Mapping[str, str]  # key in a file -> why


#: By the `kind` of the model's configuration: from the headers of its files to the model. The import is complete or a
#: ValueError: every tensor is used or ignored for a stated reason, and every parameter is filled.
IMPORTERS: dict[str, Callable[[Sequence[TensorFile]], ImportedModel]] = {}
