"""Converts the tensors of a safetensors file to the variables of an encoder.

The conversion is complete or an error: every tensor of the file is used or ignored for a stated reason, and every
parameter of the encoder is filled.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.models import encoders
from epfv2_jax.models.encoders.weights import mobilenetv4, resnet, vit
from epfv2_jax.models.encoders.weights.layout import ZEROS, Layout, Source, Third, key_of
from epfv2_jax.models.encoders.weights.reading import (
    TensorFile,
    check_float32,
    differences,
    from_torch,
    load_finite,
    shown,
    torch_shape,
)

#: Family (how the names of its encoders begin) -> layouts by name.
LAYOUTS: dict[str, dict[str, Layout]] = {
    "resnet": resnet.LAYOUTS,
    "mobilenetv4": mobilenetv4.LAYOUTS,
    "dinov3": vit.LAYOUTS,
}


class Imported(NamedTuple):
    """An encoder's variables (numpy, float32) and where they came from."""

    variables: dict[str, Any]  # "params" and, with batch normalisation, "batch_stats"
    layout: str
    used: int  # tensors of the file
    ignored: dict[str, str]  # key in the file -> why


def convert(file: TensorFile, encoder: str) -> Imported:
    """Returns the variables of `ENCODERS[encoder]` with the weights of `file`.

    Convolutions (O, I, h, w) become (h, w, I, O) and dense kernels are transposed. A stem for three colours is summed
    over them, which is exactly the original fed three copies of the monochrome image (normalised with this project's
    mean and standard deviation).

    Raises:
      ValueError: keys or shapes are not those of the encoder; the message lists them, and says what the file seems to
        hold where that is known. Or a weight is not float32, or not finite.
    """
    layouts = _layouts(encoder)
    name = next((n for n, layout in layouts.items() if set(layout.markers) <= set(file.shapes)), None)
    if name is None:
        raise ValueError(
            f"{file.path}: not the weights of {encoder!r} in a known layout ({'; '.join(layouts)}): it holds "
            f"{shown(sorted(file.shapes))}{_advice(file, encoder)}"
        )
    layout = layouts[name]
    targets = _targets(encoder)
    problems = _problems(file, targets, layout)
    if problems:
        raise ValueError(
            f"{file.path}: not the weights of {encoder!r} (layout: {name}): {problems}{_advice(file, encoder)}"
        )
    sources = _sources(targets, layout)
    used = {key_of(source) for source in sources.values() if source is not ZEROS}
    check_float32(file, used)
    values = {path: _value(file, source, targets[path]) for path, source in sources.items()}
    _check_key_biases(file, used)
    return Imported(
        variables=flax.traverse_util.unflatten_dict(values, sep="/"),
        layout=name,
        used=len(used),
        ignored={key: layout.why_ignored(key) for key in sorted(set(file.shapes) - used)},
    )


def encoder_names() -> tuple[str, ...]:
    """Returns the names of the encoders whose weights can be imported."""
    return tuple(name for name in encoders.ENCODERS if name.startswith(tuple(LAYOUTS)))


def _layouts(encoder: str) -> dict[str, Layout]:
    checks.one_of(encoder_names(), **{"encoder whose weights can be imported": encoder})
    return next(layouts for family, layouts in LAYOUTS.items() if encoder.startswith(family))


@functools.cache
def _targets(encoder: str) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each variable of an encoder by path ("params/conv1/kernel")."""
    module = encoders.ENCODERS[encoder]()
    tree = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32))
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _sources(targets: Mapping[str, tuple[int, ...]], layout: Layout) -> dict[str, Source]:
    return {path: layout.source(path.split("/", 1)[1]) for path in targets}


def _problems(file: TensorFile, targets: Mapping[str, tuple[int, ...]], layout: Layout) -> str:
    """Returns how the keys and shapes of a file differ from those of an encoder in a layout; empty if they agree."""
    allowed: dict[str, list[tuple[int, ...]]] = {}
    for path, source in _sources(targets, layout).items():
        if source is ZEROS:
            continue
        shape = torch_shape(targets[path])
        if path == f"params/{layout.stem}":
            allowed[source] = [(shape[0], 3, *shape[2:]), shape]
        elif isinstance(source, Third):
            allowed[source.key] = [(3 * shape[0], *shape[1:])]
        else:
            allowed[source] = [shape]
    return differences(file.shapes, allowed, layout.why_ignored)


def _value(file: TensorFile, source: Source, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one parameter of the given shape, in our layout."""
    if source is ZEROS:
        return np.zeros(shape, np.float32)
    value = load_finite(file, key_of(source))
    if isinstance(source, Third):
        value = np.split(value, 3)[source.index]
    value = from_torch(value)
    if value.ndim == 4 and shape[2] != value.shape[2]:
        value = value.sum(axis=2, keepdims=True, dtype=np.float64)
    return np.ascontiguousarray(value, np.float32)


def _check_key_biases(file: TensorFile, used: set[str]) -> None:
    """Raises if the keys have a bias that nothing masks: DINOv3 has none, and neither have our blocks."""
    for key in sorted(used):
        if key.endswith(".qkv.bias") and f"{key}_mask" not in file.shapes and np.split(file.load(key), 3)[1].any():
            raise ValueError(
                f"{file.path}: {key} has a bias for the keys (its middle third), and no {key}_mask that would zero it; "
                "DINOv3 has no such bias, so take the released file"
            )


def _advice(file: TensorFile, encoder: str) -> str:
    """Returns the end of an error message: what the file seems to hold, or nothing."""
    for name in encoder_names():
        for layout_name, layout in _layouts(name).items():
            if name != encoder and not _problems(file, _targets(name), layout):
                return f". These are the weights of {name!r} (layout: {layout_name}): choose that encoder"
    prefix = os.path.commonprefix(list(file.shapes))  # noqa: RUF071  (letter by letter, then cut at a dot)
    prefix = prefix[: prefix.rfind(".") + 1]
    return f". All keys begin with {prefix!r}: save the file without it, since no prefix is guessed" if prefix else ""
