"""Checks of what the cameras see of the wearer."""

from collections.abc import Iterator

import numpy as np

from epfv2_jax.core.findings import Finding
from epfv2_jax.geometry import cameras as cameras_lib
from epfv2_jax.geometry import transforms
from epfv2_jax.geometry.cameras import Camera
from epfv2_jax.geometry.layout import RigLayout

#: Least share of the joints that fall into a view's image, and into that of the view that sees most. Less is a warning:
#: glasses whose cameras look ahead see little of a wearer whose arms hang. None at all is an error.
MIN_VISIBLE, MIN_VISIBLE_ANY = 0.02, 0.05


def views(
    cameras: Camera,
    T_cam_headset: np.ndarray,
    joints_headset_m: np.ndarray,
    joint_valid: np.ndarray,
    layout: RigLayout,
) -> Iterator[Finding]:
    """Yields the share of the joints that fall into each image, occluded or not; nothing without valid joints.

    Args:
      cameras: leading axis V.
      T_cam_headset: (V, 4, 4).
      joints_headset_m: (N, J, 3).
      joint_valid: (N, J) bool.
      layout: the views.
    """
    points_m = np.asarray(joints_headset_m, np.float32)[np.asarray(joint_valid)]
    if not len(points_m):
        return
    in_cam_m = transforms.apply(np.asarray(T_cam_headset, np.float32), np.tile(points_m, (layout.num_views, 1, 1)))
    uv_px, valid = cameras_lib.project(cameras, in_cam_m)
    shares = np.asarray(valid & cameras_lib.inside_image(cameras, uv_px)).mean(axis=1)
    for name, share in zip(layout.view_names, shares, strict=True):
        yield Finding(
            check="in_view",
            value=f"{name}: {share:.1%} of the joints",
            limit=f"at least {MIN_VISIBLE:.0%}",
            problem=f"{name}: {share:.1%} of the joints fall into the image" if share < MIN_VISIBLE else "",
            is_error=False,
        )
    best = float(shares.max())
    yield Finding(
        check="in_any_view",
        value=f"{best:.1%}",
        limit=f"at least {MIN_VISIBLE_ANY:.0%}",
        problem=f"no image holds more than {best:.1%} of the joints; are images, calibration and joints of one size, "
        "unit and sequence?"
        if best < MIN_VISIBLE_ANY
        else "",
        is_error=best == 0,
    )
