"""Animates a body by curves: gait, spine, gaze, and two-bone inverse kinematics of arms and legs."""

import dataclasses

import numpy as np

from epfv2_jax.data.mocap.clip import MotionClip, sole_heights
from epfv2_jax.data.synthetic.activities import Curves
from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.rotations import euler_matrix
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON

_JOINT = {name: i for i, name in enumerate(SKELETON.joint_names)}
_SPINE = tuple(_JOINT[f"b_spine{i}"] for i in range(4))
_SIGN = {"l": 1.0, "r": -1.0}  # of x on each side of the body


def animate(
    curves: Curves, gaze: np.ndarray, offsets_m: np.ndarray, heading0: float, phase0: float, fps: float
) -> MotionClip:
    """Returns the clip (F frames) of a body that follows the curves, with its lower foot on the floor in every frame.

    Args:
      curves: as in `activities`, with rates per second.
      gaze: (F, 3), yaw, pitch and roll of the head relative to the chest, radians.
      offsets_m: (J, 3), of the person's bones.
      heading0: heading in the first frame, radians.
      phase0: phase of the gait in the first frame, radians.
      fps: frames a second.
    """
    offsets = np.asarray(offsets_m, np.float64)
    leg = -(offsets[_JOINT["b_l_leg"]] + offsets[_JOINT["b_l_foot_twist"]])[1]
    heading = heading0 + np.cumsum(curves["turn"][:, 0]) / fps
    phase = phase0 + 2 * np.pi * np.cumsum(curves["cadence"][:, 0]) / fps
    R_world_heading = euler_matrix("y", heading[:, None])

    # The gait rolls and twists the pelvis a little.
    stride = curves["stride"][:, 0]
    gait = np.stack([np.zeros(len(gaze)), 0.15 * stride * np.sin(phase), 0.4 * stride * np.cos(phase)], axis=1)
    pelvis, spine = curves["pelvis"] + gait, curves["spine"] - 1.5 * gait
    R_heading_root = euler_matrix("xzy", pelvis)
    R_root = R_world_heading @ R_heading_root
    world = np.tile(np.eye(3), (len(gaze), SKELETON.num_joints, 1, 1))
    chest = _place_trunk(world, R_root, pelvis, spine, gaze)
    for i, side in enumerate("lr"):
        ankle_m, toes_down = _step(curves, phase + i * np.pi, i)
        hip = R_heading_root @ offsets[_JOINT[f"b_{side}_upleg"]]
        _place_leg(world, side, R_world_heading, ankle_m * leg - hip, offsets, toes_down)
    for i, side in enumerate("lr"):
        wrist = curves["wrists"][:, 3 * i : 3 * i + 3].copy()
        wrist[:, 2] -= (-1) ** i * curves["swing"][:, 0] * np.cos(phase)
        _place_arm(world, side, chest, wrist, offsets, curves["elbows"][:, i], curves["hands"][:, i])

    root_m = _walked(curves, R_world_heading, leg, fps)
    clip = MotionClip(
        fps=fps,
        root_rotation=R_root.astype(np.float32),
        root_position_m=root_m.astype(np.float32),
        joint_rotations=kinematics.local_rotations(SKELETON.parents, R_root, world).astype(np.float32),
        offsets_m=offsets.astype(np.float32),
    )
    root_m[:, 1] -= sole_heights(clip)
    root_m[:, [0, 2]] -= root_m[:, [0, 2]].mean(axis=0)
    return dataclasses.replace(clip, root_position_m=root_m.astype(np.float32))


def _place_trunk(world, R_root, pelvis, spine, gaze) -> np.ndarray:
    """Sets the rotations of spine, neck and head; returns that of the chest (F, 3, 3)."""
    turned = R_root
    for joint in _SPINE:
        turned = turned @ euler_matrix("xzy", spine / 4)
        world[:, joint] = turned
    # People look up when they bend.
    pitch = gaze[:, 1] - 0.6 * (pelvis[:, 0] + spine[:, 0])
    half = 0.5 * np.stack([gaze[:, 0], pitch, gaze[:, 2]], axis=1)
    world[:, _JOINT["b_neck0"]] = turned @ euler_matrix("yxz", half)
    world[:, _JOINT["b_head"]] = world[:, _JOINT["b_neck0"]] @ euler_matrix("yxz", half)
    return turned


def _walked(curves, R_world_heading, leg, fps) -> np.ndarray:
    """Returns the path of the root (F, 3), metres: forward by the gait, at the height of the curves."""
    root_m = np.zeros((len(R_world_heading), 3))
    speed = 4.0 * leg * curves["stride"][:, 0] * curves["cadence"][:, 0]
    root_m[1:] = np.cumsum((R_world_heading[:, :, 2] * speed[:, None])[1:], axis=0) / fps
    root_m[:, 1] = leg * curves["height"][:, 0]
    return root_m


def _step(curves, phase, i) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ankle (F, 3) of leg i from the root, heading axes, leg lengths; and its toes' pitch (F,), radians."""
    stride, lift = curves["stride"][:, 0], curves["lift"][:, 0]
    step = phase % (2 * np.pi) / np.pi  # 0 to 1 on the floor, 1 to 2 in the air
    air = np.clip(step - 1.0, 0.0, 1.0)
    along = np.where(step < 1.0, 1.0 - 2.0 * step, -np.cos(np.pi * air))
    ankle = curves["ankles"][:, 3 * i : 3 * i + 3].copy()
    up = ankle[:, 1] + lift * np.sin(np.pi * air) ** 2
    sign = (1.0, -1.0)[i]
    target = np.stack([sign * ankle[:, 0], up - curves["height"][:, 0], ankle[:, 2] + stride * along], 1)
    toes_down = np.where(curves["ankles"][:, 3 * i + 1] > 0, 0.5 * ankle[:, 1], 0) + 2.5 * lift * np.sin(
        2 * np.pi * air
    )
    return target, toes_down


def _place_leg(world, side, R_world_heading, ankle_m, offsets, toes_down) -> None:
    """Sets the rotations of a leg whose ankle is at `ankle_m` (F, 3) from the hip, in heading axes."""
    knee, foot = (_JOINT[f"b_{side}_{name}"] for name in ("leg", "foot_twist"))
    pole = np.broadcast_to([0.25 * _SIGN[side], 0.0, 1.0], ankle_m.shape)
    thigh, shin, bend = _two_bones(ankle_m, np.linalg.norm(offsets[knee]), np.linalg.norm(offsets[foot]), pole)
    for name, bone in (("upleg", thigh), ("leg", shin)):
        frame = np.stack([np.cross(bend, bone), -bone, np.cross(np.cross(bend, bone), -bone)], axis=-1)
        world[:, _JOINT[f"b_{side}_{name}"]] = R_world_heading @ _orthonormal(frame)
    turned_out = np.stack([np.full(len(toes_down), 0.15 * _SIGN[side]), toes_down], axis=1)
    sole = R_world_heading @ euler_matrix("yx", turned_out)
    for name in ("foot_twist", "talocrural", "subtalar", "transversetarsal"):
        world[:, _JOINT[f"b_{side}_{name}"]] = sole


def _place_arm(world, side, R_world_chest, wrist, offsets, elbow_out, hand_bend) -> None:
    """Sets the rotations of an arm; `wrist` (F, 3) is outward, up and forward of the shoulder in arm lengths."""
    forearm, hand = (_JOINT[f"b_{side}_{name}"] for name in ("forearm", "wrist"))
    upper_m, lower_m = (float(np.linalg.norm(offsets[joint])) for joint in (forearm, hand))
    mirror = np.array([_SIGN[side], 1.0, 1.0])
    pole = np.stack([elbow_out, np.full_like(elbow_out, -0.6), np.full_like(elbow_out, -0.6)], axis=1)
    upper, lower, bend = _two_bones(wrist * mirror * (upper_m + lower_m), upper_m, lower_m, pole * mirror)
    raised = np.clip(wrist[:, 1], 0.0, 1.0)[:, None] * 0.25 * _SIGN[side]
    world[:, _JOINT[f"b_{side}_shoulder"]] = R_world_chest @ euler_matrix("z", raised)
    for name, bone in (("arm", upper), ("forearm", lower)):
        x = _SIGN[side] * bone
        across = -(bend - np.sum(bend * x, axis=-1, keepdims=True) * x)
        frame = np.stack([x, np.cross(across, x), across], axis=-1)
        world[:, _JOINT[f"b_{side}_{name}"]] = R_world_chest @ _orthonormal(frame)
    bent = euler_matrix("z", hand_bend[:, None])
    world[:, hand] = world[:, forearm] @ bent


def _two_bones(target_m, upper_m, lower_m, pole) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the directions (F, 3) of two bones that end at `target_m`, or as near as they can, and of their bend.

    The joint between them bends toward `pole`.
    """
    distance = np.linalg.norm(target_m, axis=-1, keepdims=True)
    along = target_m / np.maximum(distance, 1e-6)
    reach = np.clip(distance, 0.35 * (upper_m + lower_m), 0.998 * (upper_m + lower_m))
    side = pole - np.sum(pole * along, axis=-1, keepdims=True) * along
    side = side / np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-6)
    cosine = (upper_m**2 + reach**2 - lower_m**2) / (2 * upper_m * reach)
    upper = cosine * along + np.sqrt(np.maximum(1.0 - cosine**2, 0.0)) * side
    lower = (reach * along - upper_m * upper) / lower_m
    return upper, lower, side


def _orthonormal(frame: np.ndarray) -> np.ndarray:
    return frame / np.linalg.norm(frame, axis=-2, keepdims=True)
