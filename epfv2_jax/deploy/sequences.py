"""Sequences of frames as inputs of a graph: random or recorded ones."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data import records as records_lib
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.geometry import cameras, layout
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.structs import Rig

#: The inputs that describe the headset's cameras, the same for all frames of a stream.
CALIBRATION = ("focal_px", "center_px", "radial", "tangential", "thin_prism", "max_angle_rad", "T_cam_headset")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameSequence:
    """Inputs of F steps of B streams by name, without the state; times and true joints where they are known."""

    frames: dict[str, np.ndarray]  # (F, B, ...): images, T_world_headset, view_valid, frame_gap
    calibration: dict[str, np.ndarray]  # (B, V, ...)
    time_s: np.ndarray | None = None  # (F, B) float64
    joints_world_m: np.ndarray | None = None  # (F, B, J, 3)
    joint_valid: np.ndarray | None = None  # (F, B, J) bool

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.frames["frame_gap"])

    @property
    def recorded(self) -> dict[str, np.ndarray]:
        """What is known of recorded frames besides the inputs, by name; nothing of random ones."""
        known = {name: getattr(self, name) for name in ("time_s", "joints_world_m", "joint_valid")}
        return {name: value for name, value in known.items() if value is not None}

    def inputs(self, frame: int) -> dict[str, np.ndarray]:
        """Returns the inputs of one frame by name."""
        return {**{name: value[frame] for name, value in self.frames.items()}, **self.calibration}


def random_sequence(
    num_frames: int,
    num_views: int,
    image_size_hw: tuple[int, int],
    batch: int,
    seed: int = 0,
    camera_model: Model = "fisheye",
) -> FrameSequence:
    """Returns images of drifting blobs and noise, poses of a walk, and the measured EgoBody3M headset's cameras.

    Beyond four views, the cameras repeat. Lenses of another model have their focal lengths and optical centres.
    """
    rng = np.random.default_rng(seed)
    F, B, V, (H, W) = num_frames, batch, num_views, image_size_hw
    yaw, pitch, roll = (np.cumsum(rng.normal(0, s, (F, B)), axis=0) for s in (0.05, 0.02, 0.01))
    T_world_headset = np.tile(np.eye(4), (F, B, 1, 1))
    T_world_headset[..., :3, :3] = _about(1, yaw) @ _about(0, pitch) @ _about(2, roll)
    T_world_headset[..., :3, 3] = np.cumsum(rng.normal(0, 0.01, (F, B, 3)), axis=0) + np.asarray([0.0, 1.6, 0.0])

    y, x = np.mgrid[:H, :W]
    phase = rng.uniform(0, 2 * np.pi, (1, B, V, 2)) + np.arange(F)[:, None, None, None] * rng.normal(0, 0.1, (B, V, 2))
    waves = [
        np.sin(4 * np.pi * coordinate / n + phase[..., i][..., None, None])
        for i, (coordinate, n) in enumerate(((y, H), (x, W)))
    ]
    images = 120 + 70 * waves[0] * waves[1] + rng.normal(0, 20, (F, B, V, H, W))
    rig = _with_lenses(rig_lib.upright(rig_lib.default_rig(), layout.EGOBODY3M, image_size_hw), camera_model)
    order = np.arange(V) % layout.EGOBODY3M.num_views
    return FrameSequence(
        frames={
            "images": np.clip(images, 0, 255).astype(np.uint8),
            "T_world_headset": T_world_headset.astype(np.float32),
            "view_valid": np.ones((F, B, V), bool),
            "frame_gap": np.ones((F, B), np.int32),
        },
        calibration={name: np.stack([value[order]] * B) for name, value in calibration_of(rig, camera_model).items()},
    )


def recorded_sequences(
    records: records_lib.Records, batch: int, num_frames: int, total: int | None = None
) -> Iterator[FrameSequence]:
    """Yields recorded sequences of up to `num_frames` frames, `batch` records side by side, spread over the split.

    Args:
      records: the split; a short record shortens those beside it.
      batch: records that are streamed together.
      num_frames: most frames of a sequence.
      total: most frames of all sequences together; None: those of one sequence.
    """
    left = num_frames if total is None else total
    groups = max(1, min(len(records) // batch, -(-left // num_frames)))
    for group in range(groups):
        first = group * (len(records) // groups)
        runs = [records[(first + b) % len(records)] for b in range(batch)]
        F = min(num_frames, left, *(run.num_frames for run in runs))
        if F < 1:
            return
        left -= F
        decoded = [records_lib.decode_images(run, 0, F) for run in runs]
        yield FrameSequence(
            frames={
                "images": np.stack([images for images, _ in decoded], axis=1),
                "T_world_headset": np.stack([run.T_world_headset[:F] for run in runs], axis=1),
                "view_valid": np.stack([valid for _, valid in decoded], axis=1),
                "frame_gap": np.stack(
                    [records_lib.frame_gaps(run.time_s[:F], records.frame_s) for run in runs], axis=1
                ),
            },
            calibration={
                name: np.stack([calibration_of(run.rig, records.camera_model)[name] for run in runs])
                for name in CALIBRATION
            },
            time_s=np.stack([run.time_s[:F] for run in runs], axis=1),
            joints_world_m=np.stack([run.joints_world_m[:F] for run in runs], axis=1),
            joint_valid=np.stack([run.joint_valid[:F] for run in runs], axis=1),
        )


def with_losses(sequence: FrameSequence) -> FrameSequence:
    """Returns the sequence with what goes wrong on a headset: a camera that fails for a while, and two lost frames."""
    F = sequence.num_frames
    view_valid, frame_gap = sequence.frames["view_valid"].copy(), sequence.frames["frame_gap"].copy()
    view_valid[F // 4 : F // 3, :, 0] = False
    frame_gap[F // 2] = 3
    return dataclasses.replace(sequence, frames={**sequence.frames, "view_valid": view_valid, "frame_gap": frame_gap})


def calibration_of(rig: Rig, camera_model: Model = "fisheye") -> dict[str, np.ndarray]:
    """Returns the inputs that describe a rig, by name, float32.

    Raises:
      ValueError: the cameras have another lens model than the graph, which projects with `camera_model`.
    """
    checks.equal("lens model of the rig, beside the graph's", rig.cameras.model, camera_model, "export a graph for it")
    lens = {name: getattr(rig.cameras, name) for name in CALIBRATION[:-1]}
    return {k: np.asarray(v, np.float32) for k, v in {**lens, "T_cam_headset": rig.T_cam_headset}.items()}


def _with_lenses(rig: Rig, camera_model: Model) -> Rig:
    given = {name: getattr(rig.cameras, name) for name in ("focal_px", "center_px", "size_px")}
    if camera_model == "rational":  # coefficients as of a headset's wide cameras
        k, p = (0.42, 0.21, 0.012, 0.74, 0.33, 0.046), (-3e-4, 4e-4)
        return rig.replace(cameras=cameras.rational(**given, k=k, p=p, s=()))
    return rig.replace(cameras=cameras.pinhole(**given)) if camera_model == "pinhole" else rig


def _about(axis: int, angle_rad: np.ndarray) -> np.ndarray:
    """Returns rotations (..., 3, 3) about a coordinate axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    R = np.zeros((*angle_rad.shape, 3, 3))
    R[..., axis, axis] = 1
    R[..., i, i] = R[..., j, j] = np.cos(angle_rad)
    R[..., j, i] = np.sin(angle_rad)
    R[..., i, j] = -R[..., j, i]
    return R
