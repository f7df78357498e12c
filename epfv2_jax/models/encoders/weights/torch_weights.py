"""Importing the weights of PyTorch encoders, without PyTorch.

Only safetensors files are read: unlike a pickle, such a file cannot run code. What each library calls a tensor stands
in `LAYOUTS`; the parameters that have to be filled come from the encoder itself. Nothing is left over on either side:
every tensor of the file is used or ignored for a stated reason, and every parameter is filled.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import safetensors

from epfv2_jax.models import encoders

_SHOWN = 10  # most keys that an error lists


class Third(NamedTuple):
    """Names one third of a tensor that stacks query (0), key (1) and value (2) along its first axis."""

    key: str
    index: int


ZEROS = None  # the source of a parameter that a layout lacks because it is zero there
Source = str | Third | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How one library names the tensors of one family of encoders."""

    source: Callable[[str], Source]  # of a parameter, by its path below "params" or "batch_stats"
    stem: str  # path of the kernel that reads the image
    markers: tuple[str, ...]  # keys by which a file in this layout is known
    ignored: Mapping[str, str]  # pattern of the whole key -> why it is not needed


_CONVOLUTIONAL = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = {r".*\.num_batches_tracked": "counts training steps"}
_RESNET_IGNORED = {**_COUNTER, r"fc\..*": "classifier"}
_MOBILENETV4_IGNORED = {**_COUNTER, r"(blocks\.4|conv_head|norm_head|classifier)\..*": "behind the features used here"}
_DINOV3_IGNORED = {
    r"(embeddings\.)?mask_token": "only for pretraining",
    r".*\.qkv\.bias_mask": "zeroes the key's bias, which is left out here",
    r"rope_embed\.periods": "computed here",
    r"local_cls_norm\..*": "only for pretraining",
    r"head\..*": "classifier",
}

# Source of a parameter by its path; the second table is for the inside of a block.
_DINOV3_TIMM = {
    "cls_token": "cls_token",
    "register_tokens": "reg_token",
    "patch_embed/kernel": "patch_embed.proj.weight",
    "patch_embed/bias": "patch_embed.proj.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}
_DINOV3_TIMM_BLOCK = {
    "norm1/scale": "norm1.weight",
    "norm1/bias": "norm1.bias",
    "attn/query/kernel": Third("attn.qkv.weight", 0),
    "attn/query/bias": ZEROS,
    "attn/key/kernel": Third("attn.qkv.weight", 1),
    "attn/value/kernel": Third("attn.qkv.weight", 2),
    "attn/value/bias": ZEROS,
    "attn/out/kernel": "attn.proj.weight",
    "attn/out/bias": "attn.proj.bias",
    "layer_scale1": "gamma_1",
    "norm2/scale": "norm2.weight",
    "norm2/bias": "norm2.bias",
    "mlp/fc1/kernel": "mlp.fc1.weight",
    "mlp/fc1/bias": "mlp.fc1.bias",
    "mlp/fc2/kernel": "mlp.fc2.weight",
    "mlp/fc2/bias": "mlp.fc2.bias",
    "mlp/gate/kernel": "mlp.fc1_g.weight",
    "mlp/gate/bias": "mlp.fc1_g.bias",
    "mlp/up/kernel": "mlp.fc1_x.weight",
    "mlp/up/bias": "mlp.fc1_x.bias",
    "mlp/down/kernel": "mlp.fc2.weight",
    "mlp/down/bias": "mlp.fc2.bias",
    "layer_scale2": "gamma_2",
}
_DINOV3_TIMM_QKVB_BLOCK = {
    **_DINOV3_TIMM_BLOCK,
    "attn/query/bias": "attn.q_bias",
    "attn/value/bias": "attn.v_bias",
}
_DINOV3_META = {**_DINOV3_TIMM, "register_tokens": "storage_tokens"}
_DINOV3_META_BLOCK = {
    **_DINOV3_TIMM_BLOCK,
    "attn/query/bias": Third("attn.qkv.bias", 0),
    "attn/value/bias": Third("attn.qkv.bias", 2),
    "layer_scale1": "ls1.gamma",
    "layer_scale2": "ls2.gamma",
    "mlp/gate/kernel": "mlp.w1.weight",
    "mlp/gate/bias": "mlp.w1.bias",
    "mlp/up/kernel": "mlp.w2.weight",
    "mlp/up/bias": "mlp.w2.bias",
    "mlp/down/kernel": "mlp.w3.weight",
    "mlp/down/bias": "mlp.w3.bias",
}
_DINOV3_HF = {
    "cls_token": "embeddings.cls_token",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed/kernel": "embeddings.patch_embeddings.weight",
    "patch_embed/bias": "embeddings.patch_embeddings.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}
_DINOV3_HF_BLOCK = {
    "norm1/scale": "norm1.weight",
    "norm1/bias": "norm1.bias",
    "attn/query/kernel": "attention.q_proj.weight",
    "attn/query/bias": "attention.q_proj.bias",
    "attn/key/kernel": "attention.k_proj.weight",
    "attn/value/kernel": "attention.v_proj.weight",
    "attn/value/bias": "attention.v_proj.bias",
    "attn/out/kernel": "attention.o_proj.weight",
    "attn/out/bias": "attention.o_proj.bias",
    "layer_scale1": "layer_scale1.lambda1",
    "norm2/scale": "norm2.weight",
    "norm2/bias": "norm2.bias",
    "mlp/fc1/kernel": "mlp.up_proj.weight",
    "mlp/fc1/bias": "mlp.up_proj.bias",
    "mlp/fc2/kernel": "mlp.down_proj.weight",
    "mlp/fc2/bias": "mlp.down_proj.bias",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/gate/bias": "mlp.gate_proj.bias",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/up/bias": "mlp.up_proj.bias",
    "mlp/down/kernel": "mlp.down_proj.weight",
    "mlp/down/bias": "mlp.down_proj.bias",
    "layer_scale2": "layer_scale2.lambda1",
}


def _same_names(path: str) -> Source:
    """Our convolutional encoders keep the original's names: layer1_0/conv1/kernel is layer1.0.conv1.weight."""
    module, leaf = path.rsplit("/", 1)
    return re.sub(r"_(?=\d)", ".", module).replace("/", ".") + "." + _CONVOLUTIONAL[leaf]


def _by_table(outside: Mapping[str, Source], block: Mapping[str, Source], prefix: str, path: str) -> Source:
    """Looks a parameter of a transformer up; `prefix` precedes the number of a block in the source."""
    match = re.fullmatch(r"block_(\d+)/(.*)", path)
    if match is None:
        return outside[path]
    source = block[match[2]]
    if source is ZEROS:
        return ZEROS
    start = f"{prefix}{match[1]}."
    return Third(start + source.key, source.index) if isinstance(source, Third) else start + source


def _dinov3(outside: Mapping[str, Source], block: Mapping[str, Source], prefix: str, *markers: str) -> Layout:
    return Layout(
        source=functools.partial(_by_table, outside, block, prefix),
        stem="patch_embed/kernel",
        markers=markers,
        ignored=_DINOV3_IGNORED,
    )


# Family (how the names of its encoders begin) -> layout by name; of several that fit a file the first counts.
LAYOUTS: dict[str, dict[str, Layout]] = {
    "resnet": {
        "torchvision or timm": Layout(
            source=_same_names, stem="conv1/kernel", markers=("layer1.0.conv1.weight",), ignored=_RESNET_IGNORED
        ),
    },
    "mobilenetv4": {
        "timm": Layout(
            source=_same_names, stem="conv_stem/kernel", markers=("conv_stem.weight",), ignored=_MOBILENETV4_IGNORED
        ),
    },
    "dinov3": {
        "timm with biases of query and value": _dinov3(
            _DINOV3_TIMM, _DINOV3_TIMM_QKVB_BLOCK, "blocks.", "reg_token", "blocks.0.attn.q_bias"
        ),
        "timm": _dinov3(_DINOV3_TIMM, _DINOV3_TIMM_BLOCK, "blocks.", "reg_token"),
        "original": _dinov3(_DINOV3_META, _DINOV3_META_BLOCK, "blocks.", "storage_tokens"),
        "Hugging Face": _dinov3(_DINOV3_HF, _DINOV3_HF_BLOCK, "layer.", "layer.0.norm1.weight"),
        "Hugging Face, in memory": _dinov3(_DINOV3_HF, _DINOV3_HF_BLOCK, "model.layer.", "model.layer.0.norm1.weight"),
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The header of a safetensors file; `load(key)` returns the values of one tensor, read at that moment."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]  # as safetensors names them: "F32", "BF16"
    load: Callable[[str], np.ndarray]


class Imported(NamedTuple):
    """An encoder's variables (numpy, float32) and where they came from."""

    variables: dict[str, Any]  # "params" and, with batch normalisation, "batch_stats"
    layout: str
    used: int  # tensors of the file
    ignored: dict[str, str]  # key in the file -> why


def read(path: str | pathlib.Path) -> TensorFile:
    """Returns the header of a safetensors file; no tensor is read yet.

    Raises:
      ValueError: there is no such file, or it is not (or not wholly) a safetensors file. A pickle is never opened.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a safetensors file")
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        # Only now, since the length of a header, with which a safetensors file begins, may look like a pickle.
        with path.open("rb") as opened:
            start = opened.read(4)
        if start.startswith((b"\x80", b"PK")):
            raise ValueError(
                f"{path}: a pickle (.pth, .pt, .bin), which can run code when it is opened, so it is not; if it holds "
                "a plain dictionary of tensors, convert it where you have PyTorch: "
                + _in_torch(path, "torch.load({!r}, map_location='cpu', weights_only=True)", "v.contiguous()")
            ) from None
        raise ValueError(f"{path}: not a whole safetensors file ({error}); get it again") from None
    slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
    return TensorFile(
        path=str(path),
        shapes={key: tuple(s.get_shape()) for key, s in slices.items()},
        dtypes={key: s.get_dtype() for key, s in slices.items()},
        load=file.get_tensor,
    )


def convert(file: TensorFile, encoder: str) -> Imported:
    """Returns the variables of `ENCODERS[encoder]` with the weights of `file`.

    Convolutions (O, I, h, w) become (h, w, I, O) and dense kernels are transposed. A stem for three colours is summed
    over them, which is exactly the original fed three copies of the monochrome image (normalised with this project's
    mean and standard deviation).

    Raises:
      ValueError: the file does not fit the encoder, key by key; the message says what it seems to hold, where that is
        known. Or a weight is not float32, or not finite.
    """
    layouts = _layouts(encoder)
    name = next((n for n, layout in layouts.items() if set(layout.markers) <= set(file.shapes)), None)
    if name is None:
        raise ValueError(
            f"{file.path}: not the weights of {encoder!r} in a known layout ({'; '.join(layouts)}): it holds "
            f"{_shown(sorted(file.shapes))}{_advice(file, encoder)}"
        )
    layout = layouts[name]
    targets = _targets(encoder)
    problems = _problems(file, targets, layout)
    if problems:
        raise ValueError(
            f"{file.path}: not the weights of {encoder!r} (layout: {name}): {'; '.join(problems)}"
            f"{_advice(file, encoder)}"
        )
    sources = _sources(targets, layout)
    used = {_key(source) for source in sources.values() if source is not ZEROS}
    _check_dtypes(file, used)
    values = {path: _value(file, source, targets[path]) for path, source in sources.items()}
    broken = sorted({_key(sources[path]) for path, value in values.items() if not np.isfinite(value).all()})
    if broken:
        raise ValueError(f"{file.path}: values that are not finite in {_shown(broken)}; get the file again")
    _check_key_biases(file, used)
    return Imported(
        variables=flax.traverse_util.unflatten_dict(values, sep="/"),
        layout=name,
        used=len(used),
        ignored={key: _why_ignored(key, layout) for key in sorted(set(file.shapes) - used)},
    )


def encoder_names() -> tuple[str, ...]:
    """Returns the names of the encoders whose weights can be imported."""
    return tuple(name for name in encoders.ENCODERS if name.startswith(tuple(LAYOUTS)))


def _layouts(encoder: str) -> dict[str, Layout]:
    if encoder not in encoder_names():
        raise ValueError(
            f"no weights can be imported for encoder {encoder!r}; choose from {', '.join(encoder_names())}"
        )
    return next(layouts for family, layouts in LAYOUTS.items() if encoder.startswith(family))


@functools.cache
def _targets(encoder: str) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each variable by path ("params/conv1/kernel"), from the encoder itself."""
    module = encoders.ENCODERS[encoder]()
    tree = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32))
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _sources(targets: Mapping[str, tuple[int, ...]], layout: Layout) -> dict[str, Source]:
    return {path: layout.source(path.split("/", 1)[1]) for path in targets}


def _key(source: str | Third) -> str:
    return source.key if isinstance(source, Third) else source


def _why_ignored(key: str, layout: Layout) -> str | None:
    return next((reason for pattern, reason in layout.ignored.items() if re.fullmatch(pattern, key)), None)


def _problems(file: TensorFile, targets: Mapping[str, tuple[int, ...]], layout: Layout) -> list[str]:
    """Returns what keeps the keys and shapes of a file from being those of an encoder in a layout."""
    allowed: dict[str, list[tuple[int, ...]]] = {}
    for path, source in _sources(targets, layout).items():
        if source is ZEROS:
            continue
        shape = _reversed_axes(targets[path])
        if path == f"params/{layout.stem}":
            allowed[source] = [(shape[0], 3, *shape[2:]), shape]
        elif isinstance(source, Third):
            allowed[source.key] = [(3 * shape[0], *shape[1:])]
        else:
            allowed[source] = [shape]
    found = {
        "missing": sorted(set(allowed) - set(file.shapes)),
        "unknown": sorted(k for k in set(file.shapes) - set(allowed) if _why_ignored(k, layout) is None),
        "of another shape": [
            f"{key} {file.shapes[key]}, not {' or '.join(map(str, shapes))}"
            for key, shapes in sorted(allowed.items())
            if key in file.shapes and file.shapes[key] not in shapes
        ],
    }
    return [f"{kind}: {_shown(keys)}" for kind, keys in found.items() if keys]


def _reversed_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a parameter in PyTorch: (h, w, I, O) was (O, I, h, w), and (I, O) was (O, I)."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return shape[::-1] if len(shape) == 2 else shape


def _value(file: TensorFile, source: Source, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one parameter of the given shape, in our layout."""
    if source is ZEROS:
        return np.zeros(shape, np.float32)
    value = file.load(_key(source))
    if isinstance(source, Third):
        value = np.split(value, 3)[source.index]
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        if shape[2] != value.shape[2]:
            value = value.sum(axis=2, keepdims=True, dtype=np.float64)
    elif value.ndim == 2:
        value = value.T
    return np.ascontiguousarray(value, np.float32)


def _check_dtypes(file: TensorFile, used: set[str]) -> None:
    wrong = sorted(key for key in used if file.dtypes[key] != "F32")
    if not wrong:
        return
    command = _in_torch(file.path, "safetensors.torch.load_file({!r})", "v.float()")
    half = any(file.dtypes[key] in ("F16", "BF16") for key in wrong)
    why = "half precision has rounded them already, so look for the float32 file first; else " if half else ""
    raise ValueError(
        f"{file.path}: weights must be float32 (F32), but {_shown([f'{key} is {file.dtypes[key]}' for key in wrong])}; "
        f"{why}convert it where you have PyTorch: {command}"
    )


def _check_key_biases(file: TensorFile, used: set[str]) -> None:
    """Refuses a bias of the keys: DINOv3 has none (the original masks it out), so neither have our blocks."""
    for key in sorted(used):
        if key.endswith(".qkv.bias") and f"{key}_mask" not in file.shapes and np.split(file.load(key), 3)[1].any():
            raise ValueError(
                f"{file.path}: {key} has a bias for the keys (its middle third), and no {key}_mask that would zero it; "
                "DINOv3 has no such bias, so take the released file"
            )


def _advice(file: TensorFile, encoder: str) -> str:
    """Returns the end of an error: what the file seems to be, or nothing."""
    for name in encoder_names():
        for layout_name, layout in _layouts(name).items():
            if name != encoder and not _problems(file, _targets(name), layout):
                return f". These are the weights of {name!r} (layout: {layout_name}): choose that encoder"
    prefix = os.path.commonprefix(list(file.shapes))  # noqa: RUF071  (letter by letter, then cut at a dot)
    prefix = prefix[: prefix.rfind(".") + 1]
    return f". All keys begin with {prefix!r}: save the file without it, since no prefix is guessed" if prefix else ""


def _shown(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _in_torch(path: str | pathlib.Path, load: str, value: str) -> str:
    """Returns the command line that writes a safetensors file of `value`, for each tensor v, in PyTorch."""
    target = pathlib.Path(path).with_suffix(".float32.safetensors").name
    return (
        f'python -c "import torch, safetensors.torch; t = {load.format(str(path))}; '
        f'safetensors.torch.save_file({{k: {value} for k, v in t.items()}}, {target!r})"'
    )
