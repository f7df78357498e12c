"""The description in a checkpoint: everything that is needed to build its model and to resume training."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import epfv2_jax
from epfv2_jax import models
from epfv2_jax.core import checks
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton

#: Checkpoints of another version are not read: their configuration differs.
FORMAT_VERSION = 3


class ForeignCheckpointError(ValueError):
    """The checkpoint is intact, but this run cannot use it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """The configuration of a run and the format of its records. Written into every checkpoint as JSON."""

    experiment: dict[str, Any]  # the resolved configuration of the run, JSON-ready
    skeleton: Skeleton  # of the records
    layout: RigLayout
    image_size_hw: tuple[int, int]
    camera_model: Model = "fisheye"  # the lens model of all cameras; checkpoints of old state none

    def __post_init__(self):
        checks.at_least(1, **{f"image_size_hw[{i}]": size for i, size in enumerate(self.image_size_hw)})

    def differences(self, other: "About") -> list[tuple[str, Any, Any]]:
        """Returns (dotted key, own value, the other's value) of every difference in configuration and records."""
        own, theirs = ({**about.experiment, "records": about.to_meta()} for about in (self, other))
        for mapping in (own, theirs):
            mapping["records"] = {key: mapping["records"][key] for key in ("skeleton", "layout", "image_size_hw")}
        return _differing_keys(own, theirs)

    @property
    def model_config(self) -> Any:
        """The configuration of the model, as the dataclass of its kind."""
        (convert,) = models.ModelConfig.__metadata__
        return convert.convert(self.experiment["model"], "model")

    def to_meta(self) -> dict[str, Any]:
        """Returns the JSON-ready mapping that `from_meta` reads."""
        return {
            "format_version": FORMAT_VERSION,
            "version": epfv2_jax.__version__,
            "experiment": self.experiment,
            "skeleton": config_lib.to_mapping(self.skeleton),
            "layout": config_lib.to_mapping(self.layout),
            "image_size_hw": list(self.image_size_hw),
            "camera_model": self.camera_model,
        }

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any], where: str) -> "About":
        """Returns the description of the checkpoint at `where`.

        Raises:
          ForeignCheckpointError: it has another format version.
          ValueError: a field is missing or no value of its type; the message names it.
        """
        version = meta.get("format_version", 1) if isinstance(meta, Mapping) else None
        if version != FORMAT_VERSION:
            raise ForeignCheckpointError(
                f"{where}: checkpoint of format {version}, this version reads {FORMAT_VERSION}; train again, or use "
                "the version of epfv2_jax that wrote it"
            )
        with checks.naming(where, remedy="the checkpoint is damaged: use another"):
            known = {field.name for field in dataclasses.fields(cls)}
            about = config_lib.from_mapping(cls, {key: value for key, value in meta.items() if key in known}, "")
            checks.instance("experiment.model", about.experiment.get("model"), Mapping, "a mapping")
        return about


def _differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old value, new value) of every leaf in which two nested mappings differ."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differing_keys(a, b, f"{path}{key}.")
        elif a != b:
            found.append((f"{path}{key}", a, b))
    return found
