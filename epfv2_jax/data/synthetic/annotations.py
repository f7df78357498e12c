"""Annotations of a sequence: joints in the images, and which of them are visible."""

import collections

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.data.synthetic.sequence import Sequence
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON
from epfv2_jax.structs import Rig

#: A joint is hidden where the image shows something nearer by more than this. The limb itself can hide its joint, where
#: the ray runs along it, as through a thigh to the knee.
HIDDEN_MARGIN_M = 0.12

_LEGS = list(SKELETON.metric_groups["leg"])


def project_stored(sequence: Sequence, rig: Rig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pixels (F, V, J, 2), depths (F, V, J) and joints in the camera frames (F, V, J, 3), metres; float64.

    As EgoBody3M stores them: by the formula of the lens also past its turning point, and for a joint behind the camera
    the pixel of the opposite point, mirrored at the optical centre.
    """
    uv_px, points_cam_m = jax.device_get(_project(rig, sequence.T_world_headset, sequence.joints_world_m))
    return uv_px.astype(np.float64), points_cam_m[..., 2].astype(np.float64), points_cam_m.astype(np.float64)


@jax.jit
def _project(rig: Rig, T_world_headset: jax.Array, joints_world_m: jax.Array) -> tuple[jax.Array, jax.Array]:
    joints_headset_m = transforms.apply(transforms.invert(T_world_headset), joints_world_m)
    points_cam_m = transforms.apply(rig.T_cam_headset[None], joints_headset_m[:, None])
    in_front = jnp.where(points_cam_m[..., 2:] < 0, -points_cam_m, points_cam_m)
    uv_px, _ = cameras.project(cameras.without_turning_limit(rig.cameras), in_front)
    return uv_px, points_cam_m


def visible_joints(rig: Rig, uv_px, points_cam_m, distance_m) -> tuple[np.ndarray, np.ndarray]:
    """Returns which joints (F, V, J) lie inside an image, and which of these nothing hides.

    Args:
      rig: with leading axis V.
      uv_px, points_cam_m: as `project_stored` returns them.
      distance_m: as `render_sequence` returns them.
    """
    radius = np.linalg.norm(points_cam_m[..., :2], axis=-1)
    max_angle = np.asarray(rig.cameras.max_angle_rad)[None, :, None]
    in_view = (points_cam_m[..., 2] > 0) & (np.arctan2(radius, points_cam_m[..., 2]) < max_angle)
    inside = in_view & np.asarray(cameras.inside_image(rig.cameras, uv_px.astype(np.float32)))
    seen = inside.copy()
    for v, shown_m in enumerate(distance_m):
        column, row = (np.clip(uv_px[:, v, :, i].round().astype(int), 0, shown_m.shape[2 - i] - 1) for i in range(2))
        nearest_m = shown_m[np.arange(len(shown_m))[:, None], row, column]
        seen[:, v] &= nearest_m > np.linalg.norm(points_cam_m[:, v], axis=-1) - HIDDEN_MARGIN_M
    return inside, seen


def count_visible(inside: np.ndarray, seen: np.ndarray) -> collections.Counter[str]:
    """Returns the counts that `figures` sums up, from what `visible_joints` returns."""
    return collections.Counter(
        {f"joints_{v}": int(count) for v, count in enumerate(inside.sum(axis=(0, 2)))},
        frames=len(inside),
        leg_joints_inside=int(inside[:, :, _LEGS].sum()),
        leg_joints_seen=int(seen[:, :, _LEGS].sum()),
        leg_joints_unseen=int((~seen[:, :, _LEGS].any(axis=1)).sum()),
    )


def figures(totals: collections.Counter[str], view_names: tuple[str, ...], elapsed_s: float) -> dict[str, float]:
    """Returns the figures of `writer.write_dataset` from its totals."""
    counts = {key: totals[key] for key in ("sequences_made", "sequences_found", "sequences_missing", "frames")}
    if not (frames := totals["frames"]):
        return counts
    return counts | {
        **{f"joints_in_{name}": totals[f"joints_{v}"] / frames for v, name in enumerate(view_names)},
        "leg_joints_hidden": 1.0 - totals["leg_joints_seen"] / max(totals["leg_joints_inside"], 1),
        "leg_joints_unseen": totals["leg_joints_unseen"] / (frames * len(_LEGS)),
        "frames_per_second": frames / elapsed_s,
    }
