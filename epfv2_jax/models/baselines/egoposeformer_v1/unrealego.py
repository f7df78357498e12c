"""The camera of UnrealEgo, with which the released weights of EgoPoseFormer v1 were trained."""

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.models.baselines.egoposeformer_v1.model import Projection

# Distance from the centre, px, as a polynomial of the angle from the image plane, radians, the constant first; and the
# centre and the size of the square image, px. Source: the calibration in the public code of UnrealEgo.
_RADIUS_PX = (
    *(541.084422, 133.996745, -53.833198, 60.96083, -24.78051, 12.451492, -30.240511, 26.90122, 116.38499, -133.991117),
    *(-141.904687, 184.05592, 107.45616, -125.552875, -55.66342, 44.209519, 18.234651, -6.410899, -2.737066),
)
_CENTRE_PX = np.array([511.1183388444314, 510.8730105600536], np.float32)
_SIZE_PX = 1024
_SMALLEST_M = 1e-6  # distance from the optical axis; the original divides by zero on it


def projection(pelvis_cam_m: jax.Array) -> Projection:
    """Returns the projection of poses relative to the pelvis, in axes that both cameras share, for `EPFv1.poses`.

    Args:
      pelvis_cam_m: (N, V, 3), the pelvis in the frame of each camera; the released weights need the true one.
    """

    def project(joints_m: jax.Array) -> tuple[jax.Array, jax.Array]:
        joints_cam_m = joints_m[:, None] + pelvis_cam_m[:, :, None]
        xy, z = joints_cam_m[..., :2], joints_cam_m[..., 2]
        from_axis = jnp.maximum(jnp.sqrt(jnp.square(xy).sum(-1)), _SMALLEST_M)
        angle = jnp.arctan(-z / from_axis)
        radius_px = jnp.polyval(jnp.asarray(_RADIUS_PX[::-1], jnp.float32), angle)
        centre = jnp.broadcast_to(_CENTRE_PX, xy.shape)
        place = (xy * (radius_px / from_axis)[..., None] + centre) / _SIZE_PX
        return place, ((place > 0) & (place < 1)).all(-1)

    return project
