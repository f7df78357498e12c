"""Streams a sequence and writes a video of it: python -m epfv2_jax.demo --checkpoint DIR --sequence ZIP_OR_DIR"""

import argparse
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import tqdm

from epfv2_jax.data import conversion, images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.deploy import frames
from epfv2_jax.deploy import session as onnx_session
from epfv2_jax.evaluation.evaluate import FrameExample
from epfv2_jax.geometry import skeleton
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.structs import Rig
from epfv2_jax.viz import rerun_log, video

_ZIP_SUFFIXES = (".images.zip", ".metadata.zip")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordedFrame:
    """One frame of a recording with its truth."""

    frame_index: int
    images: np.ndarray  # (V, H, W) uint8, upright
    view_valid: np.ndarray  # (V,) bool
    T_world_headset: np.ndarray  # (4, 4) float32
    joints_world_m: np.ndarray  # (J, 3) float32
    joint_valid: np.ndarray  # (J,) bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A sequence to be streamed: its frames in order of time, read one by one."""

    name: str
    rig: Rig  # numpy, leading axis V
    num_frames: int
    frames: Iterator[RecordedFrame]


#: Says what the pose of a frame is: (frame, frame gap) -> joints_headset_m (J, 3), cholesky_m (J, 3, 3) or None.
Step = Callable[[RecordedFrame, int], tuple[np.ndarray, np.ndarray | None]]


def open_recording(path: str | os.PathLike, image_size_hw: tuple[int, int] | None) -> Recording:
    """Returns the sequence at `path`, in images of `image_size_hw` (height, width).

    Args:
      path: either zip of a released sequence; a shard of records; or a directory of records, for its first sequence.
      image_size_hw: of the model; None: that of the records.

    Raises:
      ValueError: there is no such sequence, it cannot be read, or the records hold images of another size.
    """
    path = pathlib.Path(path)
    if path.is_dir() or path.name.endswith(records.SHARD_SUFFIX):
        return _open_records(path, image_size_hw)
    suffix = next((suffix for suffix in _ZIP_SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None or not path.is_file():
        problem = "no such file or folder" if not path.exists() else "neither a sequence's zip nor records"
        raise ValueError(
            f"{path}: {problem}; give the <id>{_ZIP_SUFFIXES[0]} of a released sequence, or a folder that "
            f"epfv2_jax.convert wrote (with {records.MANIFEST_NAME} in it), or one of its {records.SHARD_SUFFIX} files"
        )
    if image_size_hw is None:
        raise ValueError(f"{path}: the checkpoint does not say to what size images are resized; give converted records")
    return _open_zip(path, suffix, image_size_hw)


def _open_records(path: pathlib.Path, image_size_hw: tuple[int, int] | None) -> Recording:
    directory = path if path.is_dir() else path.parent
    if path.is_dir() and not (path / records.MANIFEST_NAME).is_file() and any(path.glob(f"*{_ZIP_SUFFIXES[0]}")):
        raise ValueError(f"{path}: holds zips of many sequences; name one of them")
    data = records.open_records(directory)
    if image_size_hw is not None and data.image_size_hw != image_size_hw:
        raise ValueError(
            f"{directory}: images of {data.image_size_hw[0]}x{data.image_size_hw[1]} (height x width), but the model "
            f"takes {image_size_hw[0]}x{image_size_hw[1]}; convert the data to that size"
        )
    first = 0
    for shard in data.manifest.shards:
        if path.is_dir() or shard.file == path.name:
            break
        first += len(shard.records)
    else:
        raise ValueError(f"{path}: not in the {records.MANIFEST_NAME} beside it; name one of {directory}'s shards")
    name = data.entries[first].sequence
    chosen = [i for i, entry in enumerate(data.entries) if i >= first and entry.sequence == name]

    def frames() -> Iterator[RecordedFrame]:
        for i in chosen:
            run = data[i]
            for t in range(run.num_frames):
                pictures, view_valid = records.decode_images(run, t, t + 1)
                yield RecordedFrame(
                    frame_index=int(run.frame_index[t]),
                    images=pictures[0],
                    view_valid=view_valid[0],
                    T_world_headset=run.T_world_headset[t],
                    joints_world_m=run.joints_world_m[t],
                    joint_valid=run.joint_valid[t],
                )

    num_frames = sum(data.entries[i].num_frames for i in chosen)
    return Recording(name=name, rig=data[first].rig, num_frames=num_frames, frames=frames())


def _open_zip(path: pathlib.Path, suffix: str, image_size_hw: tuple[int, int]) -> Recording:
    name = path.name.removesuffix(suffix)
    pair = {s: path.with_name(name + s) for s in _ZIP_SUFFIXES}
    reader = egobody3m.SequenceReader(
        egobody3m.SequenceFiles(
            sequence=name,
            split=path.absolute().parent.name,
            images=pair[_ZIP_SUFFIXES[0]],
            metadata=pair[_ZIP_SUFFIXES[1]],
        )
    )
    fits = conversion.calibrate(reader)
    for view, fit in enumerate(fits):
        if not fit.good:
            raise ValueError(f"{path}: calibration of camera {view} is {fit.verdict}; choose another sequence")
    rig = jax.tree.map(np.asarray, rig_lib.upright(calibration.to_rig(fits), image_size_hw))
    readable, _ = conversion.read_metadata(reader)
    sizes = reader.view_sizes_px()

    def frames() -> Iterator[RecordedFrame]:
        with reader:
            for frame in readable:
                pictures = np.zeros((len(sizes), *image_size_hw), np.uint8)
                view_valid = np.zeros(len(sizes), bool)
                for view, size in enumerate(sizes):
                    try:
                        stored = images.decode_grey(reader.jpeg(frame.frame_index, view))
                    except ValueError:  # a stream goes on without an image that is missing or damaged
                        continue
                    if stored.shape[::-1] == size:
                        pictures[view] = images.upright(images.resize(stored, image_size_hw[::-1]))
                        view_valid[view] = True
                yield RecordedFrame(
                    frame_index=frame.frame_index,
                    images=pictures,
                    view_valid=view_valid,
                    T_world_headset=frame.T_world_headset.astype(np.float32),
                    joints_world_m=frame.joints_world_m.astype(np.float32),
                    joint_valid=np.ones(len(frame.joints_world_m), bool),
                )

    return Recording(name=name, rig=rig, num_frames=len(readable), frames=frames())


def stream(recording: Recording, start: Callable[[], Step], max_frames: int = 0) -> Iterator[video.StreamedFrame]:
    """Yields each frame of a recording with its predicted pose and the time that this took.

    Args:
      recording: its frames are consumed.
      start: returns the step of a new stream. The first frame goes once through a stream of its own, so that
        compiling counts in nobody's latency.
      max_frames: stop after so many; 0: at the end.
    """
    step, previous = None, None
    for i, frame in enumerate(recording.frames):
        if max_frames and i == max_frames:
            return
        if step is None:
            start()(frame, 1)
            step = start()
        gap = 1 if previous is None else frame.frame_index - previous
        previous = frame.frame_index
        began = time.perf_counter()
        joints_headset_m, cholesky_m = step(frame, gap)
        latency_ms = 1000 * (time.perf_counter() - began)
        T = frame.T_world_headset.astype(np.float64)
        truth = np.where(frame.joint_valid[:, None], (frame.joints_world_m - T[:3, 3]) @ T[:3, :3], 0.0)
        err_m = np.linalg.norm(joints_headset_m - truth, axis=-1)[frame.joint_valid]
        example = FrameExample(
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
            cholesky_m=cholesky_m,
        )
        yield video.StreamedFrame(example=example, latency_ms=latency_ms)


def jax_step(predictor: Predictor, rig: Rig) -> Step:
    """Returns the step of a new stream through a checkpoint's model.

    Raises:
      ValueError: the rig is not one for the model (see `Predictor.start`), or its joints are not those of the skeleton.
    """
    if predictor.model.config.num_joints != skeleton.NUM_JOINTS:
        raise ValueError(
            f"the model has {predictor.model.config.num_joints} joints, the drawing knows the {skeleton.NUM_JOINTS} of "
            "geometry/skeleton.py; give another checkpoint"
        )
    state = predictor.start(rig)

    def step(frame: RecordedFrame, frame_gap: int) -> tuple[np.ndarray, np.ndarray | None]:
        nonlocal state
        pose, state = predictor.step(
            state, frame.images[None], frame.T_world_headset[None], frame.view_valid[None], frame_gap
        )
        cholesky_m = None if pose.cholesky_m is None else np.asarray(pose.cholesky_m[0])
        return np.asarray(pose.joints_headset_m[0]), cholesky_m

    return step


def onnx_step(graph: onnx_session.OnnxSession, rig: Rig) -> Step:
    """Returns the step of a new stream through an exported graph of batch 1.

    Raises:
      ValueError: the rig's cameras are pinholes; the step raises it for images that the graph was not exported for.
    """
    graph.reset()
    calibration_of_one = {name: value[None] for name, value in frames.calibration_of(rig).items()}

    def step(frame: RecordedFrame, frame_gap: int) -> tuple[np.ndarray, np.ndarray | None]:
        outputs = graph.step(
            {
                "images": frame.images[None],
                "T_world_headset": frame.T_world_headset[None],
                "view_valid": frame.view_valid[None],
                "frame_gap": np.array([frame_gap], np.int32),
                **calibration_of_one,
            }
        )
        return outputs["joints_headset_m"][0], outputs["cholesky_m"][0] if "cholesky_m" in outputs else None

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", help="directory that training wrote its checkpoints to; not read with --onnx")
    parser.add_argument(
        "--sequence", required=True, help="a released sequence's zip, or records: a shard or its folder"
    )
    parser.add_argument("--onnx", help="graph that epfv2_jax.export wrote: the poses come from ONNX Runtime instead")
    parser.add_argument("--out", help=".mp4 or .gif; default: the sequence's name, .mp4 with the extra 'video'")
    parser.add_argument("--frames", type=int, default=300, help="at most so many; 0: the whole sequence")
    parser.add_argument("--frame_rate", type=float, default=30.0, help="of the recording, frames a second")
    parser.add_argument("--rerun", metavar="FILE.rrd", help="also a recording for the Rerun viewer (extra 'viz')")
    args = parser.parse_args()
    try:
        if args.frames < 0 or not 1 <= args.frame_rate <= 240:
            raise ValueError(
                f"--frames {args.frames}, --frame_rate {args.frame_rate:g}: allowed are 0 and more, 1 to 240"
            )
        if args.out is not None:
            video.check_path(args.out)
        if args.rerun is not None:
            rerun_log.check_path(args.rerun)
        if args.onnx is not None:
            graph = onnx_session.OnnxSession(args.onnx)
            recording = open_recording(args.sequence, tuple(graph.metadata["image_size_hw"]))
            start, runtime = functools.partial(onnx_step, graph, recording.rig), "ONNX Runtime"
        elif args.checkpoint is not None:
            predictor = Predictor.from_checkpoint(args.checkpoint)
            recording = open_recording(args.sequence, predictor.image_size_hw)
            start, runtime = functools.partial(jax_step, predictor, recording.rig), f"JAX, {jax.default_backend()}"
        else:
            raise ValueError("give --checkpoint, or --onnx with a graph that was exported from one")
        out = args.out or f"{recording.name}{'.mp4' if video.can_write_mp4() else '.gif'}"
        most = min(args.frames or recording.num_frames, recording.num_frames)
        frames = list(tqdm.tqdm(stream(recording, start, most), desc="stream", unit="frame", total=most))
        pictures = video.draw_frames(frames, title=recording.name, runtime=runtime, frame_rate=args.frame_rate)
        writer = video.open_writer(out, args.frame_rate)
        for picture in tqdm.tqdm(pictures, desc="draw", unit="frame", total=len(frames)):
            writer.add(picture)
        writer.close()
        if args.rerun is not None:
            rerun_log.write(args.rerun, frames, title=recording.name)
    except ValueError as error:
        parser.error(str(error))
    latency_ms = np.median([frame.latency_ms for frame in frames])
    errors = [frame.example.err_cm for frame in frames if np.isfinite(frame.example.err_cm)]
    error = f"mean joint error {np.mean(errors):.2f} cm, " if errors else ""
    print(f"{out}: {len(frames)} frames, {error}latency p50 {latency_ms:.2f} ms ({runtime})")
    if args.out is None and not video.can_write_mp4():
        print("For MP4 install the extra 'video': pip install 'epfv2_jax[video]'")


if __name__ == "__main__":
    main()
