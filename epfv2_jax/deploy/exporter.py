"""From a model to an ONNX graph of one frame's step, with its state as inputs and outputs, proven against JAX.

The graph is traced by jax2onnx, rewritten (`onnx_graph`), converted to a precision (`onnx_precision`), described by its
metadata, and published only when it passes `onnx_graph.check` and replays the golden sequence (`onnx_golden`).

jax2onnx replaces functions of jax.numpy for the rest of the process, and its first call takes many seconds: call
`export` in a process of its own, as ``python -m epfv2_jax.export`` does.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import onnx

import epfv2_jax
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records as records_lib
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.deploy import frames
from epfv2_jax.deploy import golden as onnx_golden
from epfv2_jax.deploy import graph as onnx_graph
from epfv2_jax.deploy import precision as onnx_precision
from epfv2_jax.deploy import session as onnx_session
from epfv2_jax.deploy.rules import rules as onnx_rules
from epfv2_jax.geometry import skeleton, transforms
from epfv2_jax.geometry.cameras import Camera
from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.models.epfv2.temporal import KVCache
from epfv2_jax.structs import Frames, Predictions, Rig

#: The first operator set with Gelu as one operation.
OPSET = 20
Precision = Literal["fp32", "fp16", "int8"]
#: Largest difference of a joint from JAX, metres, over the golden sequence. That of int8 is a guard against a broken
#: graph only (our choice): what it costs is measured in MPJPE.
TOLERANCE_M: dict[Precision, float] = {"fp32": 2e-5, "fp16": 1e-3, "int8": 0.25}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of the graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str
    state: bool = False  # comes back as an output next_NAME; zeros before the first frame


def inputs_of(config: epfv2.ModelConfig, image_size_hw: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
    """Returns the inputs of the graph, in order. The state is there as far as the model has it."""
    B, V, (H, W) = batch, config.num_views, image_size_hw
    tensors = [
        Tensor(name="images", shape=(B, V, H, W), dtype="uint8", meaning="monochrome, upright, views in camera order"),
        Tensor(name="T_world_headset", shape=(B, 4, 4), dtype="float32", meaning="pose of the headset, metres"),
        Tensor(name="view_valid", shape=(B, V), dtype="bool", meaning="false: this camera delivered no usable image"),
        Tensor(name="frame_gap", shape=(B,), dtype="int32", meaning="frame times since the previous frame, usually 1"),
        Tensor(name="focal_px", shape=(B, V, 2), dtype="float32", meaning="fx, fy, pixels"),
        Tensor(name="center_px", shape=(B, V, 2), dtype="float32", meaning="cx, cy, pixels; a pixel's centre is whole"),
        Tensor(name="radial", shape=(B, V, 6), dtype="float32", meaning="k1 ... k6 of the FISHEYE624 model"),
        Tensor(name="tangential", shape=(B, V, 2), dtype="float32", meaning="p1, p2"),
        Tensor(name="thin_prism", shape=(B, V, 4), dtype="float32", meaning="s1 ... s4; zeros where there are none"),
        Tensor(
            name="max_angle_rad", shape=(B, V), dtype="float32", meaning="the lens model is valid below this angle, rad"
        ),
        Tensor(name="T_cam_headset", shape=(B, V, 4, 4), dtype="float32", meaning="pose of the headset in each camera"),
    ]
    cached = (config.num_caches, B, config.window - 1, config.heads, config.width // config.heads)
    if 0 not in cached:
        meaning = "of temporal attention, by layer and frame, oldest frame first"
        tensors += [
            Tensor(name="cache_keys", shape=cached, dtype="float32", meaning=f"keys {meaning}", state=True),
            Tensor(name="cache_values", shape=cached, dtype="float32", meaning=f"values {meaning}", state=True),
            Tensor(
                name="cache_time_left",
                shape=(B, config.window - 1),
                dtype="int32",
                meaning="frame times for which a cached frame will still be seen; 0: nothing is there",
                state=True,
            ),
        ]
    if config.auxiliary_input:
        tensors += [
            Tensor(
                name="previous_T_world_headset",
                shape=(B, 4, 4),
                dtype="float32",
                meaning="pose of the headset at the previous frame",
                state=True,
            ),
            Tensor(name="started", shape=(B,), dtype="bool", meaning="whether there was one", state=True),
        ]
    return tuple(tensors)


def frames_of(given: Mapping[str, jax.Array]) -> Frames:
    """Returns chunks of one frame from the inputs of the graph by name."""
    B, V, H, W = given["images"].shape
    lens = {name: given[name] for name in frames.CALIBRATION[:-1]}
    size_px = jnp.broadcast_to(jnp.asarray([W, H], jnp.float32), (B, V, 2))
    return Frames(
        images=given["images"][:, None],
        rig=Rig(cameras=Camera(size_px=size_px, **lens), T_cam_headset=given["T_cam_headset"]),
        T_world_headset=given["T_world_headset"][:, None],
        view_valid=given["view_valid"][:, None],
        frame_valid=jnp.ones((B, 1), bool),
        frame_gap=given["frame_gap"][:, None],
    )


def variable_shapes(model: epfv2.EPFv2, image_size_hw: tuple[int, int]) -> Any:
    """Returns the shapes and types of the variables of a model for images of a size."""
    arrays = {tensor.name: _abstract(tensor) for tensor in inputs_of(model.config, image_size_hw, 1)}
    return jax.eval_shape(lambda key, given: model.init(key, frames_of(given)), jax.random.key(0), arrays)


def frame_step(model: epfv2.EPFv2, variables: Any, inputs: Sequence[Tensor]) -> Callable[..., dict[str, jax.Array]]:
    """Returns the function of one frame: arrays in the order of `inputs` -> outputs by name.

    It calls `EPFv2.step`: there is no second implementation of the model for deployment.
    """
    config = model.config

    def step(*arrays: jax.Array) -> dict[str, jax.Array]:
        given = {tensor.name: array for tensor, array in zip(inputs, arrays, strict=True)}
        frames = frames_of(given)
        state = epfv2.initial_state(config, given["images"].shape[0])
        if "cache_keys" in given:
            keys, values = given["cache_keys"], given["cache_values"]
            age = config.window - given["cache_time_left"]
            caches = tuple(KVCache(keys=keys[i], values=values[i], age=age) for i in range(config.num_caches))
            state = state.replace(caches=caches)
        if "started" in given:
            state = state.replace(T_world_headset=given["previous_T_world_headset"], started=given["started"])
        predictions, state = model.apply(variables, frames, state, method="step")
        outputs = _outputs(predictions, given["T_world_headset"])
        if "cache_keys" in given:  # every layer sees the same frames, so one age serves all; zeros mean an empty cache
            outputs[onnx_session.NEXT + "cache_keys"] = jnp.stack([cache.keys for cache in state.caches])
            outputs[onnx_session.NEXT + "cache_values"] = jnp.stack([cache.values for cache in state.caches])
            outputs[onnx_session.NEXT + "cache_time_left"] = config.window - state.caches[0].age
        if "started" in given:
            outputs[onnx_session.NEXT + "previous_T_world_headset"] = state.T_world_headset
            outputs[onnx_session.NEXT + "started"] = state.started
        return outputs

    return step


_MEANINGS = {
    "joints_headset_m": "joints in the headset frame, metres",
    "joints_world_m": "joints in the world frame, metres",
    "cholesky_m": "lower-triangular L of each joint's covariance L L^T in the headset frame, metres",
    "root_rotation": "R_headset_root of the hidden root between the hips",
    "root_position_m": "the hidden root in the headset frame, metres",
    "joint_rotations": "R_parent_joint of each joint; identity at leaves",
    "bone_scales": "length of each bone relative to the rest pose",
}


def _outputs(predictions: Predictions, T_world_headset: jax.Array) -> dict[str, jax.Array]:
    joints = predictions.joints_headset_m[:, 0]
    with jax.default_matmul_precision("highest"):
        outputs = {"joints_headset_m": joints, "joints_world_m": transforms.apply(T_world_headset, joints)}
    if predictions.cholesky_m is not None:
        outputs["cholesky_m"] = predictions.cholesky_m[:, 0]
    if predictions.body is not None:
        body = {f.name: getattr(predictions.body, f.name) for f in dataclasses.fields(predictions.body)}
        outputs |= {name: value[:, 0] for name, value in body.items()}
    return outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export came to."""

    path: pathlib.Path
    num_nodes: int
    num_bytes: int
    differences: dict[str, float]  # of each output from JAX over the golden sequence, its own unit
    mpjpe_cm: tuple[float, float] | None  # of float32 and of the exported graph on recorded frames


def export(
    model: epfv2.EPFv2,
    variables: Any,
    path: str | os.PathLike,
    *,
    image_size_hw: tuple[int, int],
    batch: int = 1,
    precision: Precision = "fp32",
    records: records_lib.Records | None = None,
    recorded_frames: int = 200,
) -> Exported:
    """Writes the graph of one frame's step at `path`, with its golden sequence beside it, and returns what it came to.

    Args:
      model: the model; its streams compute in float32 here, whatever its configuration says.
      variables: its parameters and batch statistics.
      path: of the ONNX file; nothing is written there unless the graph passes every check.
      image_size_hw: (height, width) of the images.
      batch: streams that one call moves on, B.
      precision: of the encoder: "fp32", "fp16", or "int8" with quantisation in the graph (QDQ). Everything after the
        encoder stays float32, inputs and outputs too.
      records: recorded frames, for the golden sequence and for quantisation.
      recorded_frames: at most, that quantisation is calibrated and MPJPE is measured on.

    Raises:
      ValueError: the records do not fit the model, int8 without records, or the graph fails a check.
    """
    path = pathlib.Path(path)
    if batch < 1:
        raise ValueError(f"batch: must be at least 1, got {batch}")
    if recorded_frames < 1:
        raise ValueError(f"recorded_frames: must be at least 1, got {recorded_frames}")
    if records is None and precision == "int8":
        raise ValueError("precision int8 is calibrated on recorded frames: give a directory of records")
    if records is not None and (records.image_size_hw, records.num_views) != (image_size_hw, model.config.num_views):
        raise ValueError(
            f"{records.directory}: {records.num_views} views of {records.image_size_hw} pixels, the model takes "
            f"{model.config.num_views} of {image_size_hw}; convert the data for this model"
        )
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such directory to write {path.name} to")
    config = dataclasses.replace(model.config, dtype="float32", param_dtype="float32", remat=False)
    model = epfv2.EPFv2(config)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
    inputs = inputs_of(config, image_size_hw, batch)
    step = frame_step(model, variables, inputs)

    # JAX speaks before jax2onnx is imported and replaces parts of it.
    if records is None:
        sequence = frames.random_sequence(onnx_golden.NUM_FRAMES, config.num_views, image_size_hw, batch)
    else:
        sequence = next(frames.recorded_sequences(records, batch, onnx_golden.NUM_FRAMES))
    metadata = _metadata(config, variables, image_size_hw, inputs, precision)
    golden = _golden(step, inputs, frames.with_losses(sequence), TOLERANCE_M[precision])
    specs = jax.eval_shape(step, *map(_abstract, inputs))
    next_state = {onnx_session.NEXT + tensor.name: f"next {tensor.name}" for tensor in inputs if tensor.state}
    outputs = [
        Tensor(name=name, shape=specs[name].shape, dtype=specs[name].dtype.name, meaning=meaning)
        for name, meaning in {**_MEANINGS, **next_state}.items()
        if name in specs
    ]
    metadata["outputs"] = [_described(tensor) for tensor in outputs]

    def ordered(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        results = step(*arrays)
        return tuple(results[tensor.name] for tensor in outputs)

    graph = onnx_graph.Graph(trace(ordered, inputs, [tensor.name for tensor in outputs]))
    onnx_rules.simplify(graph)
    full = graph.model()

    def recorded() -> Iterator[frames.FrameSequence]:
        return frames.recorded_sequences(records, batch, 25, total=recorded_frames)

    if precision == "int8":
        exported = onnx_precision.quantize(graph, _zeros(inputs), recorded())
    else:
        exported = onnx_precision.to_half(graph) if precision == "fp16" else full
    for proto in (full, exported):
        del proto.metadata_props[:]
        onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in metadata.items()})
        proto.producer_name, proto.producer_version = "epfv2_jax", epfv2_jax.__version__
    onnx_graph.check(exported)

    temporary = path.with_name(path.name + ".tmp")
    golden_temporary = onnx_golden.path_of(temporary)
    try:
        mpjpe_cm = None
        if records is not None and precision != "fp32":
            onnx.save(full, temporary)
            mpjpe_cm = (mpjpe(onnx_session.OnnxSession(temporary), recorded()),)
        onnx.save(exported, temporary)
        session = onnx_session.OnnxSession(temporary)
        differences = onnx_golden.replay(session, golden)
        beyond = onnx_golden.beyond_tolerance(golden, differences)
        if beyond:
            raise ValueError(f"the graph does not compute what JAX computes: {'; '.join(beyond)}; it is not published")
        if mpjpe_cm is not None:
            mpjpe_cm += (mpjpe(session, recorded()),)
        onnx_golden.write(golden_temporary, golden, onnx_session.file_sha256(temporary))
        os.replace(golden_temporary, onnx_golden.path_of(path))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        golden_temporary.unlink(missing_ok=True)
    return Exported(
        path=path,
        num_nodes=len(exported.graph.node),
        num_bytes=path.stat().st_size,
        differences=differences,
        mpjpe_cm=mpjpe_cm,
    )


def trace(function: Callable[..., Any], inputs: Sequence[Tensor], output_names: Sequence[str]) -> onnx.ModelProto:
    """Returns the raw graph of a function of arrays, as jax2onnx writes it down; not checked by anything."""
    # It warns and logs about shapes that it does not know; all shapes are inferred anew from the rewritten graph.
    with warnings.catch_warnings(), _silenced("onnx_ir", "jax2onnx"):
        warnings.simplefilter("ignore")
        import jax2onnx

        return jax2onnx.to_onnx(
            function,
            [_abstract(tensor) for tensor in inputs],
            model_name="step",
            opset=OPSET,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(output_names),
            normalization_mode="prefer_native",
        )


def mpjpe(session: onnx_session.OnnxSession, sequences: Iterable[frames.FrameSequence]) -> float:
    """Returns the mean distance of the joints from the truth over recorded sequences, each from a fresh state, cm."""
    total, count = 0.0, 0
    for sequence in sequences:
        session.reset()
        for frame in range(sequence.num_frames):
            found = session.step(sequence.inputs(frame))["joints_world_m"]
            valid = sequence.joint_valid[frame]
            total += np.linalg.norm(found - sequence.joints_world_m[frame], axis=-1)[valid].sum(dtype=np.float64)
            count += valid.sum()
    session.reset()
    return 100 * total / max(count, 1)


def variables_sha256(variables: Any) -> str:
    """Returns the SHA-256 of all arrays of a tree with their paths, shapes and types, in hexadecimal digits."""
    digest = hashlib.sha256()
    for key, leaf in sorted((jax.tree_util.keystr(k), v) for k, v in jax.tree_util.tree_leaves_with_path(variables)):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{key} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _golden(step, inputs: Sequence[Tensor], sequence: frames.FrameSequence, tolerance_m: float) -> onnx_golden.Golden:
    """What JAX makes of a sequence, in float32."""
    jitted = jax.jit(step)
    state = _zeros(inputs)
    given = {name: [] for name in sequence.inputs(0)}
    results = []
    with jax.default_matmul_precision("highest"):
        for frame in range(sequence.num_frames):
            arrays = sequence.inputs(frame)
            for name, value in arrays.items():
                given[name].append(value)
            outputs = jax.device_get(jitted(*({**arrays, **state}[tensor.name] for tensor in inputs)))
            state = {name: outputs.pop(onnx_session.NEXT + name) for name in state}
            results.append(outputs)
    outputs = {name: np.stack([result[name] for result in results]) for name in results[0]}
    # A joint may differ by `tolerance_m`; what is not a joint by ten times that, relative where it is larger than one.
    tolerance = {name: 10 * tolerance_m * max(1.0, float(np.abs(value).max())) for name, value in outputs.items()}
    for name, value in state.items():
        tolerance[onnx_session.NEXT + name] = 10 * tolerance_m * max(1.0, float(np.abs(value).max()))
    tolerance |= {"joints_headset_m": tolerance_m, "joints_world_m": tolerance_m}
    return {
        "inputs": {name: np.stack(value) for name, value in given.items()},
        "outputs": outputs,
        "final": state,
        "tolerance": {name: np.asarray(value) for name, value in tolerance.items()},
    }


def _metadata(
    config: epfv2.ModelConfig, variables: Any, image_size_hw: tuple[int, int], inputs: Sequence[Tensor], precision: str
) -> dict[str, Any]:
    own_skeleton = config.num_joints == skeleton.NUM_JOINTS
    names = rig_lib.VIEW_NAMES if config.num_views == len(rig_lib.VIEW_NAMES) else range(config.num_views)
    return {
        "format_version": onnx_session.FORMAT_VERSION,
        "package": "epfv2_jax",
        "version": epfv2_jax.__version__,
        "opset": OPSET,
        "precision": precision,
        "checkpoint_sha256": variables_sha256(variables),
        "model": config_lib.to_mapping(config),
        "joint_names": skeleton.JOINT_NAMES if own_skeleton else [f"joint_{j}" for j in range(config.num_joints)],
        "parents": skeleton.PARENTS if own_skeleton else None,
        "units": {"length": "metre", "angle": "radian", "time": "frame time of the training data"},
        "axes": {
            "world": "y up, floor near y = 0",
            "headset": "+x to the wearer's left, +y up, +z forward",
            "camera": "+x right, +y down, +z along the optical axis of the upright image",
            "T_a_b": "4x4 matrix that maps column vectors of coordinates in b to coordinates in a",
        },
        "camera_model": "fisheye",
        "camera_order": list(names),
        "image_size_hw": list(image_size_hw),
        "image_mean": config.image_mean,
        "image_std": config.image_std,
        "normalisation": "inside the graph: (image / 255 - image_mean) / image_std",
        "window": config.window,
        "inputs": [_described(tensor) for tensor in inputs],
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    return {field.name: getattr(tensor, field.name) for field in dataclasses.fields(tensor)}


def _zeros(inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The state of streams that have seen nothing."""
    return {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in inputs if tensor.state}


def _abstract(tensor: Tensor) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tensor.shape, np.dtype(tensor.dtype))


@contextlib.contextmanager
def _silenced(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
