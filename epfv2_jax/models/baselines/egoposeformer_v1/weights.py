"""Imports the released weights of EgoPoseFormer v1 from one safetensors file.

The authors save PyTorch Lightning checkpoints; the keys may keep the prefix that Lightning puts before all of them.
Poses come out as they were trained: relative to the pelvis, in the axes of UnrealEgo's cameras; for these weights call
`EPFv1.poses` with the projection of `egoposeformer_v1.unrealego`. The code is Apache-2.0; the data that the weights
were trained on allow no commercial use.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.traverse_util
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks
from epfv2_jax.models import base
from epfv2_jax.models.baselines.egoposeformer_v1.model import CM_PER_M, EPFv1, EPFv1Config
from epfv2_jax.models.baselines.unrealego.weights import IMAGE_SIZE_HW, LAYOUT, SKELETON
from epfv2_jax.models.encoders.weights import reading
from epfv2_jax.models.encoders.weights.layout import COUNTERS, same_names
from epfv2_jax.models.encoders.weights.reading import TensorFile
from epfv2_jax.models.imported import ImportedModel

_CONFIG = EPFv1Config()  # the released network
_PREFIX = "model."  # of PyTorch Lightning
_IGNORED = {**COUNTERS, r"layers\.\d\.cross_attn\.(spatial_shapes|start_index)": "the size of the map"}
#: Modules by the pattern of their path here -> their key there.
_MODULES = {
    r"encoder/(conv|bn)1": lambda m: f"encoder.backbone.layer_s2.{int(m[1] == 'bn')}",
    r"encoder/layer1_(.*)": r"encoder.backbone.layer_s4.1.\1",
    r"encoder/layer(\d)_(.*)": lambda m: f"encoder.backbone.layer_s{2 ** (int(m[1]) + 1)}.{m[2]}",
    r"neck/lateral_(\d)": r"encoder.neck.lateral_convs.\1.0",
    r"neck/fuse_(\d)": r"encoder.neck.fuse_convs.\1.0",
    r"neck/smooth_(\d)": r"encoder.neck.fpn_convs.\1.0",
    r"features": "feat_proj",
    r"proposal/hidden_(\d)": r"mlp_pred.\1.0",
    r"proposal/out": "mlp_pred.2",
    r"query/hidden_(\d)": lambda m: f"query_gen_mlp.{2 * int(m[1])}",
    r"query/out": "query_gen_mlp.4",
    r"layers_(\d)/cross/offsets": r"layers.\1.cross_attn.sampling_offsets",
    r"layers_(\d)/cross/weights": r"layers.\1.cross_attn.attention_weights",
    r"layers_(\d)/cross/value": r"layers.\1.cross_attn.value_proj",
    r"layers_(\d)/cross/out": r"layers.\1.cross_attn.output_proj",
    r"layers_(\d)/join": r"layers.\1.fuse_mlp",
    r"layers_(\d)/cross_norm": r"layers.\1.norm_cross",
    r"layers_(\d)/attention/(q|k|v)(uery|ey|alue)": r"layers.\1.spatial_attn.\2_proj",
    r"layers_(\d)/attention/out": r"layers.\1.spatial_attn.out_proj",
    r"layers_(\d)/attention_norm": r"layers.\1.norm_spatial",
    r"layers_(\d)/ffn_in": r"layers.\1.ffn.layers.0.0",
    r"layers_(\d)/ffn_out": r"layers.\1.ffn.layers.1",
    r"layers_(\d)/ffn_norm": r"layers.\1.norm_ffn",
    r"offsets_(\d)/norm": r"post_norm.\1",
    r"offsets_(\d)/hidden": r"reg_mlp.\1.0",
    r"offsets_(\d)/out": r"reg_mlp.\1.2",
}


class _Source(NamedTuple):
    """Where a variable comes from."""

    key: str
    shape: tuple[int, ...]  # of the tensor
    convert: Callable[[np.ndarray], np.ndarray] = reading.from_torch


def load(files: Sequence[TensorFile]) -> ImportedModel:
    """Returns the released network with the weights of its file.

    Raises:
      ValueError: there is more than one file, or keys, shapes, types or values are not those of the released network.
    """
    checks.equal("--file: number of files", len(files), 1, "give the one of the pose network")
    file = reading.without_prefix(files[0], _PREFIX)
    sources = _sources()

    def why_ignored(key: str) -> str | None:
        return next((why for pattern, why in _IGNORED.items() if re.fullmatch(pattern, key)), None)

    allowed = {source.key: [source.shape] for source in sources.values()}
    if problems := reading.differences(file.shapes, allowed, why_ignored):
        raise ValueError(f"{file.path}: not the released weights of EgoPoseFormer v1: {problems}")
    reading.check_float32(file, allowed)
    values = {
        path: np.ascontiguousarray(source.convert(reading.load_finite(file, source.key)), np.float32)
        for path, source in sources.items()
    }
    return ImportedModel(
        config=_CONFIG,
        skeleton=SKELETON,
        layout=LAYOUT,
        image_size_hw=IMAGE_SIZE_HW,
        variables=flax.traverse_util.unflatten_dict(values, sep="/"),
        used=len(allowed),
        ignored={key: why_ignored(key) for key in sorted(set(file.shapes) - set(allowed))},
    )


@functools.cache
def _sources() -> dict[str, _Source]:
    """Returns the source of each variable by its path."""
    blank = structs.blank_frames(1, 1, LAYOUT.num_views, IMAGE_SIZE_HW)
    variables = base.abstract_variables(EPFv1(_CONFIG, SKELETON, LAYOUT), blank)
    shapes = flax.traverse_util.flatten_dict(variables, sep="/").items()
    return {path: _source(path, leaf.shape) for path, leaf in shapes}


def _source(path: str, shape: tuple[int, ...]) -> _Source:
    """Returns the source of a variable by its path, such as "params/encoder/conv1/kernel", and its shape."""
    inner = path.split("/", 1)[1]
    module, leaf = inner.rsplit("/", 1)
    pattern = next(p for p in _MODULES if re.fullmatch(rf"{p}", module))
    key = re.sub(pattern, _MODULES[pattern], module)
    key = same_names(f"{key}/{leaf}")
    plain = reading.torch_shape(shape)
    if inner == "encoder/conv1/kernel":
        return _Source(key, (plain[0], 3, *plain[2:]), reading.summed_over_colours)
    if inner == "features/kernel":
        return _Source(key, (*plain, 1, 1), lambda kernel: kernel[:, :, 0, 0].T)
    if inner == "proposal/out/bias":  # ours is the difference from the rest pose
        rest_cm = CM_PER_M * SKELETON.rest_joints_headset_m().reshape(-1)
        return _Source(key, plain, lambda bias: bias - rest_cm)
    return _Source(key, plain)
