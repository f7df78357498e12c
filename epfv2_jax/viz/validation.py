"""What the checks of a sequence found, as a table and as pictures."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from epfv2_jax.core.findings import Finding
from epfv2_jax.data import records
from epfv2_jax.data.validation import Validated
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import overlays

_HEADER = ("verdict", "check", "value", "limit")


def table(findings: Sequence[Finding]) -> str:
    """Returns a line for each finding in columns, and below them the problems."""
    rows = [_HEADER, *((f.verdict, f.check, f.value, f.limit) for f in findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER) - 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]
    problems = [f"{f.verdict}: {f.problem}" for f in findings if f.problem]
    return "\n".join([*lines, *problems])


def draw(validated: Validated, folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the pictures that it writes, one of each view: the frame whose joints are known best, with its skeleton.

    Without joints the skeleton is the rest pose below the headset: an upright wearer should look like it.
    """
    if not validated.runs:
        return []
    run, t = max(
        ((run, t) for run in validated.runs for t in range(run.num_frames)),
        key=lambda place: (place[0].joint_valid[place[1]].sum(), place[0].view_valid[place[1]].sum()),
    )
    pictures = overlays.draw_views(_example(run, t, validated.skeleton), validated.skeleton, height_px=720)
    folder, paths = pathlib.Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(validated.layout.view_names, pictures, strict=True):
        paths.append(folder / f"{validated.split}_{validated.sequence}_{name}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths


def _example(run: records.FrameRun, t: int, skeleton: Skeleton) -> FrameExample:
    """Returns the frame for a picture; the prediction is empty."""
    images, view_valid = records.decode_images(run, t, t + 1)
    T = run.T_world_headset[t].astype(np.float64)
    joints_m = (run.joints_world_m[t] - T[:3, 3]) @ T[:3, :3]
    valid = run.joint_valid[t]
    if not valid.any():
        joints_m, valid = _hanging(skeleton, T[:3, :3]), np.ones_like(valid)
    return FrameExample(
        clip_id=0,
        frame=int(run.frame_index[t]),
        err_cm=np.nan,
        images=images[0],
        rig=run.rig,
        view_valid=view_valid[0],
        T_world_headset=run.T_world_headset[t],
        true_joints_headset_m=joints_m,
        joint_valid=valid,
        joints_headset_m=np.full_like(joints_m, np.nan),
        distribution=None,
    )


def _hanging(skeleton: Skeleton, R_world_headset: np.ndarray) -> np.ndarray:
    """Returns the rest pose (J, 3) of an upright person in the frame of a tilted headset."""
    up = np.array([0.0, 1.0, 0.0])
    left = R_world_headset[:, 0] * (1 - up)
    left /= max(np.linalg.norm(left), 1e-6)
    R_world_level = np.stack([left, up, np.cross(left, up)], axis=-1)
    return skeleton.rest_joints_headset_m() @ (R_world_headset.T @ R_world_level).T
