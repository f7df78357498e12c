"""Streams a sequence frame by frame through a model, as a headset would, and writes a video of it."""

import dataclasses
import functools
import os
import pathlib
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.structs import Rig, StudentT
from epfv2_jax.viz import encoding, recordings, rerun_log, video
from epfv2_jax.viz.recordings import RecordedFrame, Recording

#: Returns the pose of a frame, given the frame and its frame gap: joints_headset_m (J, 3) and their distribution.
Step = Callable[[RecordedFrame, int], tuple[np.ndarray, StudentT | None]]


class PoseSource(Protocol):
    """What computes the poses of a stream."""

    runtime: str  # shown beside the latency
    image_size_hw: tuple[int, int] | None  # (height, width) that it takes; None: any
    joint_names: tuple[str, ...]  # of its poses
    view_names: tuple[str, ...]  # that it takes, in this order

    def start(self, rig: Rig) -> Step:
        """Returns the step of a new stream from a headset with this rig.

        Raises:
          ValueError: the rig is not one that the model takes.
        """


class ModelPoses:
    """Poses of a checkpoint's model."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor
        self.runtime = f"JAX, {jax.default_backend()}"
        self.image_size_hw = predictor.image_size_hw
        self.joint_names = predictor.model.skeleton.joint_names
        self.view_names = predictor.model.layout.view_names

    def start(self, rig: Rig) -> Step:
        """See `PoseSource`."""
        state = self._predictor.start(rig)

        def step(frame: RecordedFrame, frame_gap: int) -> tuple[np.ndarray, StudentT | None]:
            nonlocal state
            pose, state = self._predictor.step(
                state, frame.images[None], frame.T_world_headset[None], frame.view_valid[None], frame_gap
            )
            return jax.tree.map(lambda x: np.asarray(x[0]), (pose.joints_headset_m, pose.distribution))

        return step


class Graph(Protocol):
    """An exported graph of batch 1 and the state of its stream, as `deploy.session.OnnxSession`."""

    metadata: Mapping[str, Any]

    def reset(self) -> None:
        """Starts a new stream."""

    def step(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of one frame by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _GraphMetadata:
    """What is read of a graph's metadata."""

    image_size_hw: tuple[int, int]
    joint_names: tuple[str, ...]
    camera_order: tuple[str, ...]
    camera_model: Model = "fisheye"  # graphs of old state none
    degrees_of_freedom: float | None = None  # None: the graph states no uncertainty

    def __post_init__(self):
        checks.at_least(1, **{f"image_size_hw[{i}]": size for i, size in enumerate(self.image_size_hw)})
        if self.degrees_of_freedom is not None:
            checks.above(0, degrees_of_freedom=self.degrees_of_freedom)


class GraphPoses:
    """Poses of an exported graph."""

    def __init__(self, graph: Graph, calibration_of: Callable[[Rig, Model], dict[str, np.ndarray]]):
        """Takes a graph, and the function that returns its inputs (V, ...) for a rig by name.

        Raises:
          ValueError: a field of the graph's metadata that is needed is missing, or is no value of its type.
        """
        read = {field.name for field in dataclasses.fields(_GraphMetadata)} & set(graph.metadata)
        with checks.naming("metadata of the graph", remedy="export the checkpoint again"):
            about = config_lib.from_mapping(_GraphMetadata, {name: graph.metadata[name] for name in read}, "")
        self._graph, self._calibration_of = graph, calibration_of
        self.runtime = "ONNX Runtime"
        self.image_size_hw = about.image_size_hw
        self.joint_names = about.joint_names
        self.view_names = about.camera_order
        self._degrees_of_freedom, self._camera_model = about.degrees_of_freedom, about.camera_model

    def start(self, rig: Rig) -> Step:
        """See `PoseSource`. The graph has one stream: a new one ends the last."""
        calibration = {name: value[None] for name, value in self._calibration_of(rig, self._camera_model).items()}
        self._graph.reset()

        def step(frame: RecordedFrame, frame_gap: int) -> tuple[np.ndarray, StudentT | None]:
            outputs = self._graph.step(
                {
                    "images": frame.images[None],
                    "T_world_headset": frame.T_world_headset[None],
                    "view_valid": frame.view_valid[None],
                    "frame_gap": np.array([frame_gap], np.int32),
                    **calibration,
                }
            )
            return outputs["joints_headset_m"][0], self._distribution(outputs)

        return step

    def _distribution(self, outputs: Mapping[str, np.ndarray]) -> StudentT | None:
        if self._degrees_of_freedom is None or "cholesky_m" not in outputs:
            return None
        return StudentT(cholesky_m=outputs["cholesky_m"][0], degrees_of_freedom=self._degrees_of_freedom)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is streamed and what is written. The fields are the flags of the command."""

    sequence: str | os.PathLike  # see `recordings.open_recording`
    out: str | os.PathLike | None = None  # .mp4 or .gif; None: the sequence's name, .mp4 with the extra `video`
    frames: int = 300  # at most; 0: the whole sequence
    frame_rate: float | None = None  # of the video, frames a second; None: that of the recording
    rerun: str | os.PathLike | None = None  # .rrd; also a recording for the Rerun viewer

    def __post_init__(self):
        checks.at_least(0, frames=self.frames)
        if self.frame_rate is not None:
            checks.within(1, 240, frame_rate=self.frame_rate)
        if self.out is not None:
            encoding.check_path(self.out)
        if self.rerun is not None:
            rerun_log.check_path(self.rerun)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What was written, and how good and fast the poses were."""

    path: pathlib.Path  # of the video
    num_frames: int
    err_cm: float | None  # mean joint error; None where the truth is unknown
    latency_ms: float  # median over the frames
    runtime: str

    def __str__(self) -> str:
        error = "" if self.err_cm is None else f"mean joint error {self.err_cm:.2f} cm, "
        latency = f"latency p50 {self.latency_ms:.2f} ms ({self.runtime})"
        return f"{self.path}: {self.num_frames} frames, {error}{latency}"


#: Passes the items of an iterable on and shows how many of `total` are done.
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


def run(poses: PoseSource, options: Options, progress: Progress = lambda items, description, total: items) -> Summary:
    """Returns a summary of the streamed sequence, after writing its video.

    Raises:
      ValueError: the sequence cannot be read, or is not one for the model.
    """
    recording = recordings.open_recording(options.sequence, poses.image_size_hw)
    _check_same(recording, poses)
    total = min(options.frames or recording.num_frames, recording.num_frames)
    streamed = stream(recording, functools.partial(poses.start, recording.rig), total)
    frames = list(progress(streamed, "stream", total))
    path = pathlib.Path(options.out or f"{recording.name}{'.mp4' if encoding.can_write_mp4() else '.gif'}")
    frame_rate = options.frame_rate or 1 / recording.frame_s
    pictures = video.draw_frames(
        frames,
        recording.skeleton,
        recording.layout,
        title=recording.name,
        runtime=poses.runtime,
        frame_rate=frame_rate,
    )
    writer = encoding.open_writer(path, frame_rate)
    for picture in progress(pictures, "draw", len(frames)):
        writer.add(picture)
    writer.close()
    if options.rerun is not None:
        rerun_log.write(options.rerun, frames, recording.skeleton, recording.layout, title=recording.name)
    err_cm = [frame.example.err_cm for frame in frames if np.isfinite(frame.example.err_cm)]
    return Summary(
        path=path,
        num_frames=len(frames),
        err_cm=float(np.mean(err_cm)) if err_cm else None,
        latency_ms=float(np.median([frame.latency_ms for frame in frames])),
        runtime=poses.runtime,
    )


def stream(recording: Recording, start: Callable[[], Step], max_frames: int = 0) -> Iterator[video.StreamedFrame]:
    """Yields each frame of a recording with its predicted pose and the time that this took.

    Args:
      recording: its frames are consumed.
      start: returns the step of a new stream. The first frame first runs through a stream of its own, so that no
        latency includes the compilation.
      max_frames: stop after so many; 0: at the end.
    """
    step, before_s = None, None
    for i, frame in enumerate(recording.frames):
        if max_frames and i == max_frames:
            return
        if step is None:
            start()(frame, 1)
            step = start()
        (gap,) = records.frame_gaps(np.array([frame.time_s]), recording.frame_s, before_s).tolist()
        before_s = frame.time_s
        began = time.perf_counter()
        joints_headset_m, distribution = step(frame, gap)
        latency_ms = 1000 * (time.perf_counter() - began)
        example = _example(recording, frame, joints_headset_m, distribution)
        yield video.StreamedFrame(example=example, latency_ms=latency_ms)


def _check_same(recording: Recording, poses: PoseSource) -> None:
    for what, own, theirs in (
        ("joints", poses.joint_names, recording.skeleton.joint_names),
        ("views", poses.view_names, recording.layout.view_names),
    ):
        if own != theirs:
            shown = [textwrap.shorten(", ".join(map(str, names)), 60, placeholder=" ...") for names in (own, theirs)]
            raise ValueError(
                f"{recording.name}: the model has {len(own)} {what} ({shown[0]}), the sequence {len(theirs)} "
                f"({shown[1]}); give a sequence of the data that the model was trained on"
            )


def _example(
    recording: Recording, frame: RecordedFrame, joints_headset_m: np.ndarray, distribution: StudentT | None
) -> FrameExample:
    T = frame.T_world_headset.astype(np.float64)
    truth = np.where(frame.joint_valid[:, None], (frame.joints_world_m - T[:3, 3]) @ T[:3, :3], 0.0)
    err_m = np.linalg.norm(joints_headset_m - truth, axis=-1)[frame.joint_valid]
    return FrameExample(
        clip_id=0,
        frame=frame.frame_index,
        err_cm=100 * float(err_m.mean()) if len(err_m) else float("nan"),
        images=frame.images,
        rig=recording.rig,
        view_valid=frame.view_valid,
        T_world_headset=frame.T_world_headset,
        true_joints_headset_m=truth.astype(np.float32),
        joint_valid=frame.joint_valid,
        joints_headset_m=joints_headset_m,
        distribution=distribution,
    )
