"""What an importer of released weights returns."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton


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
