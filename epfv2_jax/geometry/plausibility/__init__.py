"""What cameras, poses and bodies of a person with a headset cannot be; the problems name the likely mistake.

The checks need no truth. They find wrong units, inverted or mirrored transforms, axes of another convention, and images
of another size than their calibration; they do not find small errors. All limits are our choice: far from what a person
and a headset do, so that an error is a mistake in the data.

`cameras`, `poses`, `body` and `views` yield what each check found; `check_cameras`, `check_poses` and `check_body`
raise a ValueError with the first error.
"""

import numpy as np

from epfv2_jax.core.findings import raise_first
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.plausibility.body import body
from epfv2_jax.geometry.plausibility.cameras import cameras, off_centre
from epfv2_jax.geometry.plausibility.poses import height, poses
from epfv2_jax.geometry.plausibility.views import views
from epfv2_jax.geometry.skeleton import Skeleton

__all__ = ["body", "cameras", "check_body", "check_cameras", "check_poses", "off_centre", "poses", "views"]


def check_cameras(T_cam_headset: np.ndarray, center_px: np.ndarray, size_px: np.ndarray, layout: RigLayout) -> None:
    """Raises ValueError unless the cameras can be those of a headset; arguments as in `cameras`."""
    raise_first(cameras(T_cam_headset, center_px, size_px, layout))


def check_poses(T_world_headset: np.ndarray) -> None:
    """Raises ValueError unless headset poses (N, 4, 4) are in metres above a floor at y = 0."""
    raise_first([height(T_world_headset)])


def check_body(
    joints_world_m: np.ndarray, joint_valid: np.ndarray, T_world_headset: np.ndarray, skeleton: Skeleton
) -> None:
    """Raises ValueError unless the joints can be those of the wearer; arguments as in `body`."""
    raise_first(body(joints_world_m, joint_valid, T_world_headset, skeleton))
