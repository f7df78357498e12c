"""Where one rigid body is in another, from the trajectories of both in two unrelated worlds."""

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import checks
from epfv2_jax.geometry import alignment

#: Smallest rotation about a second axis, rms radians between paired poses: our choice. Below it, part of the answer is
#: not in the data.
MIN_TURN_RAD = 1e-3


def hand_eye(T_worlda_a: np.ndarray, T_worldb_b: np.ndarray, stride: int) -> tuple[np.ndarray, float, float]:
    """Returns T_a_b (4, 4), and how far the motions of the two bodies are from rigid: rms radians and metres.

    With the motions A and B of the two bodies between the same times, A T_a_b = T_a_b B. The axes of rotation of A are
    those of B turned by T_a_b, which a singular value decomposition solves; then the translations are linear in that of
    T_a_b (Park and Martin, "Robot sensor calibration: solving AX = XB on the Euclidean group", 1994).

    Args:
      T_worlda_a: (n, 4, 4) poses of the first body in its world, metres.
      T_worldb_b: (n, 4, 4) poses of the second in its own, at the same times.
      stride: motions are from each pose to the one this many later.

    Raises:
      ValueError: there are too few poses, or the bodies turn about one axis only.
    """
    checks.at_least(stride + 3, **{"poses for the alignment": len(T_worlda_a)})
    motion_a, motion_b = (np.linalg.inv(T[:-stride]) @ T[stride:] for T in (T_worlda_a, T_worldb_b))
    turn_a, turn_b = (Rotation.from_matrix(motion[:, :3, :3]).as_rotvec() for motion in (motion_a, motion_b))
    covariance = turn_a.T @ turn_b / len(turn_a)
    second = np.sqrt(np.linalg.svd(covariance, compute_uv=False)[1])
    checks.at_least(MIN_TURN_RAD, **{"rotation about a second axis, rms radians between poses": float(second)})
    R = alignment.nearest_rotation(covariance)
    factor = motion_a[:, :3, :3] - np.eye(3)
    wanted = motion_b[:, :3, 3] @ R.T - motion_a[:, :3, 3]
    t = np.linalg.lstsq(factor.reshape(-1, 3), wanted.reshape(-1), rcond=None)[0]
    T_a_b = np.eye(4)
    T_a_b[:3, :3], T_a_b[:3, 3] = R, t

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.square(x).sum(-1).mean()))

    return T_a_b, rms(turn_a - turn_b @ R.T), rms(factor @ t - wanted)
