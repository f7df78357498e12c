"""Turns motion capture so that y is up and the rest pose stands upright, facing z."""

import numpy as np

from epfv2_jax.data.mocap import articulated, figure
from epfv2_jax.data.mocap.articulated import ArticulatedMotion

_AXES = {
    f"{sign}{letter}": (1 if sign == "+" else -1) * np.eye(3)[i] for i, letter in enumerate("xyz") for sign in "+-"
}
# Thresholds, our choice. A trunk is upright within 45 degrees. Whose trunk is in one frame of twenty may lie otherwise.
# Where the trunk points along another axis of the file nearly always, the shins must be upright too in so many: else it
# may be somebody who bends down, in a file with another axis up.
_UPRIGHT_COSINE, _UPRIGHT_SHARE = 0.7, 0.05
_OTHER_SHARE, _DOUBTFUL_SHARE = 0.7, 0.15
_TURNED_SHARE = 0.5  # frames in which the trunk keeps the upright direction of the rest pose
_STANDING_COSINE = 0.85  # of trunk, thighs and shins in the frame that stands for the rest pose
_AXIS_COSINE = 0.8  # of the rest pose's direction up and an axis
_YAW_COSINE = np.cos(np.radians(10.0))  # a rest pose turned by less faces along an axis


def upright(body: ArticulatedMotion) -> ArticulatedMotion:
    """Returns a motion from `figure.body_of` with y up, whose rest pose stands upright with y up, facing z.

    A rest pose that stands upright along another axis is turned. The world is turned along with it if the motion keeps
    the body upright along that axis (files with z up). Where the rest pose does not stand (LaFAN1, whose bones all lie
    along x), the frame in which the figure stands best takes its place (our choice).

    Raises:
      ValueError: the body stands upright neither along y nor along the up axis of the rest pose, or its left and right
        are exchanged.
    """
    _, joints_m = articulated.world_pose(body)
    rest_m = articulated.rest_joints_m(body)
    stands = _stands(body, rest_m)
    world = np.eye(3)
    if stands:
        axes = np.broadcast_to(_facing(body, rest_m, _up(body, rest_m)), (len(body.names), 3, 3))
        world = _world(body, joints_m, axes[0])
    else:
        axes = _axes_of_standing_frame(body, joints_m, rest_m)
    body = articulated.turned(body, world, axes)
    _check_not_mirrored(body)
    return body


def trunk(body: ArticulatedMotion, joints_m: np.ndarray) -> np.ndarray:
    """Returns the direction (..., 3) from the hips to the shoulders, given joints (..., N, 3)."""
    return _unit(_middle(body, joints_m, "upper_arm") - _middle(body, joints_m, "thigh"))


def _stands(body: ArticulatedMotion, rest_m: np.ndarray) -> bool:
    hips, feet = _middle(body, rest_m, "thigh"), _middle(body, rest_m, "foot")
    head = rest_m[figure.joints(body)["head"]]
    up = _unit(head - feet)
    return all(_unit(bone) @ up > _AXIS_COSINE for bone in (head - hips, hips - feet))


def _up(body: ArticulatedMotion, rest_m: np.ndarray) -> np.ndarray:
    """Returns the axis along which the rest pose stands."""
    up = _unit(rest_m[figure.joints(body)["head"]] - _middle(body, rest_m, "foot"))
    axis = max(_AXES.values(), key=lambda axis: float(axis @ up))
    if axis @ up < _AXIS_COSINE:
        raise ValueError(
            f"{body.source}: the rest pose must stand upright along an axis, best y, facing z; its up points along "
            f"{up.round(2).tolist()}; turn the rest pose"
        )
    return axis


def _facing(body: ArticulatedMotion, joints_m: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Returns the rotation (3, 3) that takes `up` to y and the hips' left to x, given joints (N, 3) of a pose."""
    part = figure.joints(body)
    left = joints_m[part["l_thigh"]] - joints_m[part["r_thigh"]]
    flat = left - (left @ up) * up
    if not left.any() or np.linalg.norm(flat) < _AXIS_COSINE * np.linalg.norm(left):
        raise ValueError(
            f"{body.source}: the rest pose must stand upright, best with y up, facing z; its left points along "
            f"{_unit(left).round(2).tolist()}, its up along {up.round(2).tolist()}; turn the rest pose"
        )
    flat = _unit(flat)
    nearest = max(_AXES.values(), key=lambda axis: float(axis @ flat))
    flat = nearest if nearest @ flat > _YAW_COSINE else flat
    return np.stack([flat, up, np.cross(flat, up)])


def _world(body: ArticulatedMotion, joints_m: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Returns the rotation (3, 3) of the world that puts y up, given the turn of the rest pose."""
    direction = trunk(body, joints_m)
    share = {name: float(np.mean(direction @ axis > _UPRIGHT_COSINE)) for name, axis in _AXES.items()}
    other = max((name for name in _AXES if name != "+y"), key=share.__getitem__)
    rest_up = max(_AXES, key=lambda name: float(axes[1] @ _AXES[name]))
    shins = _unit(_middle(body, joints_m, "shin") - _middle(body, joints_m, "foot"))
    stands = np.mean((direction[:, 1] > _UPRIGHT_COSINE) & (shins[:, 1] > _UPRIGHT_COSINE)) >= _UPRIGHT_SHARE
    doubtful = share["+y"] < _DOUBTFUL_SHARE and share[other] > _OTHER_SHARE
    if share["+y"] >= _UPRIGHT_SHARE and (stands or not doubtful):
        return np.eye(3)
    if share[rest_up] > _TURNED_SHARE:
        return _least_turn(_AXES[rest_up])
    lies = f"in {share['+y']:.0%} of the frames the trunk is upright with y up"
    if share[other] > _TURNED_SHARE:
        lies += f", in {share[other]:.0%} it points along {other}, but the rest pose stands along {rest_up}"
    raise ValueError(
        f"{body.source}: the figure lies or hangs in the world: {lies}; if {other} is up in its motion (Blender, "
        "AMASS and SMPL: +z), write the file with y up, rest pose and root alike; if the person does lie or crawl all "
        "the time, keep frames in which he or she stands or sits (one in twenty)"
    )


def _axes_of_standing_frame(body: ArticulatedMotion, joints_m: np.ndarray, rest_m: np.ndarray) -> np.ndarray:
    """Returns R_new_old (N, 3, 3) of each joint's axes, of which the best standing frame becomes the rest pose."""
    part, y = figure.joints(body), np.eye(3)[1]
    bones = [joints_m[:, part["head"]] - _middle(body, joints_m, "thigh")]
    for side in "lr":
        thigh, shin, foot = (joints_m[:, part[f"{side}_{name}"]] for name in ("thigh", "shin", "foot"))
        bones += [thigh - shin, shin - foot]
    score = np.min([_unit(bone) @ y for bone in bones], axis=0)
    best = int(np.argmax(score))
    if score[best] < _STANDING_COSINE:
        raise ValueError(
            f"{body.source}: neither the rest pose nor any frame stands upright with y up: in the best, frame "
            f"{best + 1} at 30 a second, the head or a leg is {np.degrees(np.arccos(score[best])):.0f} degrees off; "
            "the offsets or the order of rotations are not those of a person, or z is up; write the file with y up "
            "and a T-pose at rest"
        )
    rotations, _ = articulated.world_pose(body)
    axes = _facing(body, joints_m[best], y) @ rotations[best]
    # Head and spine have common axes at rest where the spine itself is straight then; so that a head which looks
    # down in the frame is not taken for one that looks ahead.
    spine = [0, *figure.path_down(body, 0, part["head"])]
    if all(_unit(rest_m[part["head"]] - rest_m[0]) @ _unit(body.offsets_m[i]) > _AXIS_COSINE for i in spine[1:]):
        straight = _facing(body, rest_m, _nearest_axis(rest_m[part["head"]] - rest_m[0]))
        if (np.trace(straight @ np.swapaxes(axes[spine], -1, -2), axis1=-2, axis2=-1) > 1 + 2 * _UPRIGHT_COSINE).all():
            axes[spine] = straight
    return axes


def _check_not_mirrored(body: ArticulatedMotion) -> None:
    rest_m = articulated.rest_joints_m(body)
    feet = _middle(body, rest_m, "toes") - _middle(body, rest_m, "foot")
    if _unit(feet)[2] < -0.3:
        raise ValueError(
            f"{body.source}: the toes point backwards at rest where the left hip is on the left: names of left and "
            "right are exchanged, or the file's axes are left-handed (Unity, Unreal); write it with right-handed axes"
        )


def _middle(body: ArticulatedMotion, joints_m: np.ndarray, part: str) -> np.ndarray:
    index = figure.joints(body)
    return 0.5 * (joints_m[..., index[f"l_{part}"], :] + joints_m[..., index[f"r_{part}"], :])


def _nearest_axis(direction: np.ndarray) -> np.ndarray:
    return max(_AXES.values(), key=lambda axis: float(axis @ direction))


def _least_turn(axis: np.ndarray) -> np.ndarray:
    """Returns a rotation (3, 3) by 0, 90 or 180 degrees that takes a coordinate axis to y."""
    if axis[1]:
        return np.diag([1.0, axis[1], axis[1]])
    return np.outer(np.eye(3)[1], axis) - np.outer(axis, np.eye(3)[1]) + np.diag(1 - np.abs(axis) - np.eye(3)[1])


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
