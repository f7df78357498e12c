"""Imports the released weights of UnrealEgo from two safetensors files, the heatmap network's and the autoencoder's.

The authors save two PyTorch state dictionaries a run, `best_net_HeatMap.pth` and `best_net_AutoEncoder.pth`; take both
from the run of the autoencoder. Poses come out as they were trained: relative to the pelvis, in the axes of their data.
Their licence allows no commercial use and no redistribution.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.traverse_util
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import JointGroup, Skeleton
from epfv2_jax.models import base
from epfv2_jax.models.baselines.unrealego.model import UnrealEgo, UnrealEgoConfig
from epfv2_jax.models.encoders.weights import reading
from epfv2_jax.models.encoders.weights.layout import COUNTERS, same_names
from epfv2_jax.models.encoders.weights.reading import TensorFile
from epfv2_jax.models.imported import ImportedModel

#: The 16 joints of UnrealEgo: order, names and parents as in the authors' loss, where a thigh hangs on an upper arm.
#: Records of the data set have the same joints, by name, on an anatomical tree (`data.readers.unrealego`). Groups and
#: the rest pose, a T-pose of rounded adult proportions, are our choice; so is the hidden root, called pelvis there.
SKELETON = Skeleton(
    name="unrealego_published",
    joint_names=(
        "head",
        "neck_01",
        "upperarm_l",
        "upperarm_r",
        "lowerarm_l",
        "lowerarm_r",
        "hand_l",
        "hand_r",
        "thigh_l",
        "thigh_r",
        "calf_l",
        "calf_r",
        "foot_l",
        "foot_r",
        "ball_l",
        "ball_r",
    ),
    parents=(-1, 0, 1, 1, 2, 3, 4, 5, 2, 3, 8, 9, 10, 11, 12, 13),
    mirror=(0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14),
    root_between=(8, 9),
    groups=(
        JointGroup(name="wrist", joints=(6, 7)),
        JointGroup(name="shoulder", joints=(2, 3)),
        JointGroup(name="leg", joints=(10, 11, 12, 13, 14, 15)),
        JointGroup(name="foot", joints=(12, 13, 14, 15)),
    ),
    rest_offsets_m=(
        (0.00, 0.58, 0.03),
        (0.00, -0.10, -0.03),
        (0.17, -0.05, 0.00),
        (-0.17, -0.05, 0.00),
        (0.27, 0.00, 0.00),
        (-0.27, 0.00, 0.00),
        (0.25, 0.00, 0.00),
        (-0.25, 0.00, 0.00),
        (-0.08, -0.43, 0.00),
        (0.08, -0.43, 0.00),
        (0.00, -0.41, 0.00),
        (0.00, -0.41, 0.00),
        (0.00, -0.40, 0.00),
        (0.00, -0.40, 0.00),
        (0.00, -0.06, 0.13),
        (0.00, -0.06, 0.13),
    ),
    rest_root_headset_m=(0.0, -0.66, -0.10),
)

#: The two cameras on the rim of the glasses; the images are upright.
LAYOUT = RigLayout(name="unrealego_published", view_names=("left", "right"), upright_turns=(0, 0), mirror=(1, 0))

#: The released network: a heatmap for each joint but the head.
CONFIG = UnrealEgoConfig(heatmap_joints=SKELETON.joint_names[1:])
IMAGE_SIZE_HW = (256, 256)

_PREFIX = "module."  # of PyTorch's DataParallel
_TRUNK = "backbone.backbone.backbone."
_IGNORED = {**COUNTERS, r"backbone\.backbone\.backbone\.fc\..*": "classifier"}
_COPY = "the same tensor again"


class _Part(NamedTuple):
    """What one of the two files holds."""

    name: str
    marker: str  # a key that only this file has
    modules: tuple[str, ...]  # of the model


_PARTS = (
    _Part("the heatmap network", "after_backbone.conv_heatmap.weight", ("encoder", "heatmaps")),
    _Part("the autoencoder", "pose_fc3.weight", ("autoencoder",)),
)


class _Source(NamedTuple):
    """Where a variable comes from."""

    key: str
    shape: tuple[int, ...]  # of the tensor
    convert: Callable[[np.ndarray], np.ndarray] = reading.from_torch


def load(files: Sequence[TensorFile], config: UnrealEgoConfig = CONFIG) -> ImportedModel:
    """Returns the released network, or one of other widths, with the weights of its two files, given in any order.

    Raises:
      ValueError: they are not the two files, or keys, shapes, types or values are not those of the network.
    """
    checks.equal("--file: number of files", len(files), 2, "give the heatmap network's and the autoencoder's")
    files = [reading.without_prefix(file, _PREFIX) for file in files]
    blank = structs.blank_frames(1, 1, LAYOUT.num_views, IMAGE_SIZE_HW)
    variables = base.abstract_variables(UnrealEgo(config, SKELETON, LAYOUT), blank)
    shapes = {path: x.shape for path, x in flax.traverse_util.flatten_dict(variables, sep="/").items()}
    values, ignored, used = {}, {}, 0
    for part in _PARTS:
        file = next((file for file in files if part.marker in file.shapes), None)
        if file is None:
            paths = " and ".join(file.path for file in files)
            raise ValueError(f"{paths}: neither holds {part.name}, whose file has the key {part.marker}")
        own = (path for path in shapes if path.split("/")[1] in part.modules)
        sources = {path: _source(path, shapes[path], config) for path in own}
        found, left_out = _read(file, part.name, sources)
        values |= found
        ignored |= left_out
        used += len(sources)
    return ImportedModel(
        config=config,
        skeleton=SKELETON,
        layout=LAYOUT,
        image_size_hw=IMAGE_SIZE_HW,
        variables=flax.traverse_util.unflatten_dict(values, sep="/"),
        used=used,
        ignored=ignored,
    )


def _read(file: TensorFile, part: str, sources: Mapping[str, _Source]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the variables of a part by path, and why each other tensor of its file is not used."""
    copies = {key: original for key in file.shapes if (original := _original(key)) in file.shapes}
    allowed = {source.key: [source.shape] for source in sources.values()}
    allowed |= {copy: [file.shapes[original]] for copy, original in copies.items()}

    def why_ignored(key: str) -> str | None:
        reasons = (why for pattern, why in _IGNORED.items() if re.fullmatch(pattern, key))
        return next(reasons, _COPY if key in copies else None)

    if problems := reading.differences(file.shapes, allowed, why_ignored):
        raise ValueError(f"{file.path}: not the released weights of {part}: {problems}")
    reading.check_float32(file, [source.key for source in sources.values()])
    for copy, original in copies.items():
        if why_ignored(copy) == _COPY and not np.array_equal(file.load(copy), file.load(original)):
            raise ValueError(f"{file.path}: {copy} must be {original} again, but its values differ; get the file again")
    values = {
        path: np.ascontiguousarray(source.convert(reading.load_finite(file, source.key)), np.float32)
        for path, source in sources.items()
    }
    used = {source.key for source in sources.values()}
    return values, {key: why_ignored(key) for key in sorted(set(file.shapes) - used)}


def _original(key: str) -> str | None:
    """Returns the key of the tensor that one of the heatmap network repeats; None where it repeats none.

    Beside the ResNet the authors' module holds its layers a second time, in groups by resolution.
    """
    match = re.fullmatch(r"backbone\.backbone\.layer(\d)\.(.*)", key)
    if match is None:
        return None
    stage, rest = match.groups()
    if stage == "0":  # the stem
        return _TRUNK + re.sub(r"^1\.", "bn1.", re.sub(r"^0\.", "conv1.", rest))
    return f"{_TRUNK}layer{stage}." + (rest.removeprefix("1.") if stage == "1" else rest)  # pooling comes before layer1


def _source(path: str, shape: tuple[int, ...], config: UnrealEgoConfig) -> _Source:
    """Returns the source of a variable by its path, such as "params/encoder/conv1/kernel", and its shape."""
    _, module, rest = path.split("/", 2)
    plain = reading.torch_shape(shape)
    if module == "encoder":
        key = _TRUNK + same_names(rest)
        if rest == "conv1/kernel":
            return _Source(key, (shape[3], 3, *shape[:2]), reading.summed_over_colours)
        return _Source(key, plain)
    layer, leaf = rest.split("/")
    leaf = same_names(rest).rsplit(".", 1)[1]
    if module == "heatmaps":
        return _Source(f"after_backbone.{_heatmap_layer(layer)}.{leaf}", plain)
    is_norm, layer = layer.endswith("_bn"), layer.removesuffix("_bn")
    if layer == "pose_fc3":
        return _Source(f"{layer}.{leaf}", plain)
    inner = ("bn" if is_norm else "fc") if "fc" in layer else int(is_norm)
    key = f"{layer}.{inner}.{leaf}"
    if (layer, leaf, is_norm) == ("fc1", "weight", False):
        return _Source(key, plain, lambda x: _by_cell(x.T, config.conv_widths[-1]))
    if layer == f"heatmap_fc{len(config.dense_widths) + 1}":
        return _Source(key, plain, lambda x: reading.from_torch(_by_cell(x, config.conv_widths[-1])))
    if layer.startswith("deconv") and not is_norm and leaf == "weight":
        return _Source(key, (*shape[2:], *shape[:2]), _transposed_convolution)
    return _Source(key, plain)


def _heatmap_layer(name: str) -> str:
    """Returns the authors' name of a layer of the decoder."""
    if name == "heatmap":
        return "conv_heatmap"
    level = name[-1]
    return f"layer{level}_1x1.0" if name.startswith("lateral") else f"conv_up{level}.0"


def _transposed_convolution(kernel: np.ndarray) -> np.ndarray:
    """(I, O, h, w), which PyTorch flips, as (h, w, I, O)."""
    return kernel[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)


def _by_cell(x: np.ndarray, channels: int) -> np.ndarray:
    """Rows (C * h * w, ...) of a map that PyTorch flattened channel by channel, cell by cell: (h * w * C, ...)."""
    return x.reshape(channels, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
