"""Reads safetensors files, and nothing else: unlike a pickle, such a file cannot run code."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import safetensors

from epfv2_jax.core import files

_SHOWN = 10  # most keys that an error lists
_LOAD_PICKLE = "torch.load({!r}, map_location='cpu', weights_only=True); t = t.get('state_dict', t)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The header of a safetensors file; `load(key)` reads the values of one tensor."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]  # in the format's own names: "F32", "BF16"
    load: Callable[[str], np.ndarray]


def read(path: str | pathlib.Path) -> TensorFile:
    """Returns the header of a safetensors file; no tensor is read yet.

    Raises:
      ValueError: there is no such file, or it is not a whole safetensors file. A pickle is never opened.
    """
    path = files.on_disk(path, "copy the weights there")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a safetensors file")
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        # Not before: a safetensors file begins with the length of its header, which may look like a pickle.
        with path.open("rb") as opened:
            start = opened.read(64)
        if start.startswith((b"\x80", b"PK")):
            raise ValueError(
                f"{path}: a pickle (.pth, .pt, .bin, .ckpt), which can run code when it is opened, so it is not; if it "
                "holds a plain dictionary of tensors or a checkpoint of Lightning, convert it where you have PyTorch: "
                + _in_torch(path, _LOAD_PICKLE, "v.contiguous().clone()")
            ) from None
        raise ValueError(f"{path}: {_what_it_is(start)} ({error})") from None
    slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    return TensorFile(
        path=str(path),
        shapes={key: tuple(s.get_shape()) for key, s in slices.items()},
        dtypes={key: s.get_dtype() for key, s in slices.items()},
        load=file.get_tensor,
    )


def check_float32(file: TensorFile, used: Iterable[str]) -> None:
    """Raises unless all tensors in `used` are float32; the message has the command that converts the file."""
    wrong = sorted(key for key in used if file.dtypes[key] != "F32")
    if not wrong:
        return
    command = _in_torch(file.path, "safetensors.torch.load_file({!r})", "v.float()")
    half = any(file.dtypes[key] in ("F16", "BF16") for key in wrong)
    why = "half precision has rounded them already, so look for the float32 file first; else " if half else ""
    raise ValueError(
        f"{file.path}: weights must be float32 (F32), but {shown([f'{key} is {file.dtypes[key]}' for key in wrong])}; "
        f"{why}convert it where you have PyTorch: {command}"
    )


def without_prefix(file: TensorFile, prefix: str) -> TensorFile:
    """Returns a file whose keys lack the prefix that a wrapper put before all of them, if it did; else the file."""
    if not all(key.startswith(prefix) for key in file.shapes):
        return file
    shapes, dtypes = ({k.removeprefix(prefix): v for k, v in x.items()} for x in (file.shapes, file.dtypes))
    return TensorFile(path=file.path, shapes=shapes, dtypes=dtypes, load=lambda key: file.load(prefix + key))


def load_finite(file: TensorFile, key: str) -> np.ndarray:
    """Returns the values of one tensor.

    Raises:
      ValueError: one of them is not finite.
    """
    value = file.load(key)
    if not np.isfinite(value).all():
        raise ValueError(f"{file.path}: values that are not finite in {key}; get the file again")
    return value


def differences(
    shapes: Mapping[str, tuple[int, ...]],
    allowed: Mapping[str, Sequence[tuple[int, ...]]],
    why_ignored: Callable[[str], str | None],
) -> str:
    """Returns how the keys and shapes of a file differ from those that are allowed, for a message; empty if they agree.

    Args:
      shapes: of the file's tensors, by key.
      allowed: the shapes that each needed tensor may have, by key.
      why_ignored: the reason why a tensor is not needed, by key; None: it is needed, or unknown.
    """
    found = {
        "missing": sorted(set(allowed) - set(shapes)),
        "unknown": sorted(key for key in set(shapes) - set(allowed) if why_ignored(key) is None),
        "of another shape": [
            f"{key} {shapes[key]}, not {' or '.join(map(str, right))}"
            for key, right in sorted(allowed.items())
            if key in shapes and shapes[key] not in right
        ],
    }
    return "; ".join(f"{kind}: {shown(keys)}" for kind, keys in found.items() if keys)


def from_torch(value: np.ndarray) -> np.ndarray:
    """Returns a tensor of PyTorch in our layout.

    Convolutions (O, I, h, w) become (h, w, I, O) and dense kernels are transposed; all else stays.
    """
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def summed_over_colours(kernel: np.ndarray) -> np.ndarray:
    """Returns the stem (h, w, 1, O) that sees in a monochrome image what (O, 3, h, w) sees in three copies of it."""
    return from_torch(kernel.sum(axis=1, keepdims=True, dtype=np.float64))


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a tensor in PyTorch whose shape here is given, see `from_torch`."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return shape[::-1] if len(shape) == 2 else shape


def shown(keys: list[str]) -> str:
    """Returns the keys for a message, at most ten of them."""
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _what_it_is(start: bytes) -> str:
    """Says what a file is that is no safetensors file, by its first bytes, and what to do."""
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights; run `git lfs pull` where you cloned them, or download the file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not the weights; download the file itself (signed in, where its licence must be accepted)"
    if start.lstrip().startswith(b"{"):
        return "JSON, such as an index or an answer of a server, not the weights; download the file itself"
    return "not a whole safetensors file; get it again"


def _in_torch(path: str | pathlib.Path, load: str, value: str) -> str:
    """Returns the command line that writes `value` of each tensor v to a safetensors file in PyTorch."""
    target = pathlib.Path(path).with_suffix(".float32.safetensors").name
    return (
        f'python -c "import torch, safetensors.torch; t = {load.format(str(path))}; '
        f'safetensors.torch.save_file({{k: {value} for k, v in t.items()}}, {target!r})"'
    )
