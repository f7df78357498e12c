"""Frames of records as pictures draw them: the data's joints as the truth, or the rest pose where there are none."""

import numpy as np

from epfv2_jax.data import records
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.skeleton import Skeleton


def of_run(
    run: records.FrameRun, t: int, skeleton: Skeleton, joints_headset_m: np.ndarray | None = None
) -> FrameExample:
    """Returns frame `t` of a run for a picture.

    Without any joint the truth is the rest pose below the headset, upright as the wearer should stand: it should look
    like him.

    Args:
      run: of a sequence.
      t: index of the frame in the run.
      skeleton: of its joints.
      joints_headset_m: (J, 3) drawn as the prediction; None: there is none, or NaN for a joint without one.
    """
    images, view_valid = records.decode_images(run, t, t + 1)
    T = run.T_world_headset[t].astype(np.float64)
    joints_m, valid = (run.joints_world_m[t] - T[:3, 3]) @ T[:3, :3], run.joint_valid[t]
    if not valid.any():
        joints_m, valid = _hanging(skeleton, T[:3, :3]), np.ones_like(valid)
    joints_m = np.where(valid[:, None], joints_m, 0.0)
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
        joints_headset_m=np.full_like(joints_m, np.nan) if joints_headset_m is None else joints_headset_m,
        distribution=None,
    )


def _hanging(skeleton: Skeleton, R_world_headset: np.ndarray) -> np.ndarray:
    """Returns the rest pose (J, 3) of an upright person in the frame of a tilted headset."""
    up = np.array([0.0, 1.0, 0.0])
    left = R_world_headset[:, 0] * (1 - up)
    left /= max(np.linalg.norm(left), 1e-6)
    R_world_level = np.stack([left, up, np.cross(left, up)], axis=-1)
    return skeleton.rest_joints_headset_m() @ (R_world_headset.T @ R_world_level).T
