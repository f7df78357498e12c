"""Decides whether a motion, read and stood upright, is that of a person: proportions, speed, heights, knees.

Files that were read in wrong units, axes or angles are well-formed; only the result shows it. The thresholds are our
choice and let children, tall people, sprints, jumps, cartwheels and clips on stairs pass.
"""

import dataclasses
from typing import NoReturn

import numpy as np

from epfv2_jax.data.mocap import articulated, figure
from epfv2_jax.data.mocap.articulated import ArticulatedMotion

#: Length of thigh and shin, metres, of anybody from a four-year-old to the tallest.
LEG_M = (0.4, 1.25)

_HEAD_IN_LEGS = (1.2, 2.6)  # head above the ankles at rest, in lengths of thigh and shin
# What is compared, bones named by the joint at their end, other bones, and the range of the ratio of their lengths.
_RATIOS = (
    ("thigh and shin", "l_shin r_shin", "l_foot r_foot", (0.6, 1.7)),
    ("upper arm and forearm", "l_forearm r_forearm", "l_hand r_hand", (0.5, 2.2)),
    ("left and right leg", "l_shin l_foot", "r_shin r_foot", (0.8, 1.25)),
    ("left and right arm", "l_forearm l_hand", "r_forearm r_hand", (0.8, 1.25)),
    ("arm and leg", "l_forearm l_hand", "l_shin l_foot", (0.4, 1.1)),
)
_FASTEST_M_S = 11.5  # of the hips, in nineteen of twenty steps
_TURNS_RAD_S = 15.0  # of thighs and upper arms, in half of the steps
_STIFF_DEG = 11.0  # three angles of a whole turn, given in radians and read as degrees, make a turn of 10.9 degrees
_TRAVEL_M = 0.5
_UNIT_RATIOS = (
    2.54,
    2.54 / 0.45,
    10.0,
    39.37,
    100.0,
    1000.0,
)  # inch and cm, CMU unit and cm, cm and mm, ...
_BENT_DEG, _WRONG_KNEES = 25.0, 0.5  # knees bent by more count; so many of them bent forwards are wrong


@dataclasses.dataclass(frozen=True)
class _Clip:
    """A motion and what the checks look at."""

    body: ArticulatedMotion
    part: dict[str, int]
    rotations: np.ndarray  # (F, N, 3, 3) R_world_joint
    joints_m: np.ndarray  # (F, N, 3)

    def fail(self, problem: str) -> NoReturn:
        raise ValueError(f"{self.body.source}: {problem}")


def check(body: ArticulatedMotion) -> None:
    """Raises ValueError, with the likely cause, unless a motion in metres from `standing.upright` is a person's."""
    clip = _Clip(body, figure.joints(body), *articulated.world_pose(body))
    _check_figure(clip)
    _check_speed(clip)
    _check_heights(clip)
    _check_angles(clip)
    _check_knees(clip)


def _check_figure(clip: _Clip) -> None:
    leg_m = figure.leg_length(clip.body)
    if not LEG_M[0] <= leg_m <= LEG_M[1]:
        clip.fail(
            f"thigh and shin are {leg_m:.3g} m long together, not {LEG_M[0]} to {LEG_M[1]} m; the unit of length is "
            "wrong: correct 'length' in :units of the ASF file, the units in an inch (0.45 for CMU's, 2.54 for cm, "
            "25.4 for mm, 0.0254 for m), or give that of a BVH file (bvh_unit_m)"
        )

    def length(bones: str) -> float:
        return sum(float(np.linalg.norm(clip.body.offsets_m[clip.part[part]])) for part in bones.split())

    for names, bones, others, (low, high) in _RATIOS:
        ratio = length(bones) / max(length(others), 1e-9)
        if not low <= ratio <= high:
            clip.fail(
                f"the lengths of {names} are as {ratio:.3g} to 1, not {low} to {high} as a person's; joints are named "
                "wrongly, or offsets are in several units"
            )
    rest_m = articulated.rest_joints_m(clip.body)
    feet_m = 0.5 * (rest_m[clip.part["l_foot"], 1] + rest_m[clip.part["r_foot"], 1])
    height = (rest_m[clip.part["head"], 1] - feet_m) / leg_m
    if not _HEAD_IN_LEGS[0] <= height <= _HEAD_IN_LEGS[1]:
        clip.fail(
            f"the head is {height:.3g} lengths of the legs above the ankles at rest, not {_HEAD_IN_LEGS[0]} to "
            f"{_HEAD_IN_LEGS[1]} as a person's; the offsets of legs and spine are in several units, or mixed up"
        )


def _check_speed(clip: _Clip) -> None:
    steps_m = np.linalg.norm(np.diff(clip.body.root_position_m, axis=0), axis=-1)
    if not len(steps_m):
        return
    speed_m_s = float(np.quantile(steps_m, 0.95)) * clip.body.fps
    if speed_m_s > _FASTEST_M_S:
        clip.fail(
            f"the hips move at {speed_m_s:.4g} m/s, above {_FASTEST_M_S}; the root's positions are in another unit "
            "than the offsets, or the frame rate is wrong; write both in one unit"
        )
    limbs = [clip.part[f"{side}_{name}"] for side in "lr" for name in ("thigh", "upper_arm")]
    turns = clip.rotations[:, limbs]
    cosine = 0.5 * (np.einsum("fnij,fnij->fn", turns[1:], turns[:-1]) - 1.0)
    rad_s = float(np.median(np.arccos(np.clip(cosine, -1.0, 1.0)))) * clip.body.fps
    if rad_s > _TURNS_RAD_S:
        clip.fail(
            f"thighs and upper arms turn at {rad_s:.3g} rad/s half of the time, above {_TURNS_RAD_S}; angles in "
            "degrees are read as radians ('angle' in :units of the ASF file), or the frame rate is wrong"
        )


def _check_heights(clip: _Clip) -> None:
    """Fails if the root's height above y = 0 is that of the figure above its feet at another scale than 1.

    The floor need not be at y = 0: what counts is which scale makes the feet keep their height. Where that does not
    tell, a scale that is the ratio of two units does.
    """
    root_m = clip.body.root_position_m
    above_m = root_m[:, 1] - clip.joints_m[..., 1].min(axis=1)
    scale = float(np.median(root_m[:, 1]) / max(np.median(above_m), 1e-3))
    if 0.75 <= scale <= 1.33 or scale <= 0 or not np.ptp(root_m, axis=0).any():
        return
    slides_m = float(np.std(root_m[:, 1] - above_m)), float(np.std(root_m[:, 1] - scale * above_m))
    bends = np.std(above_m) > 2e-3 and np.ptp(root_m[:, 1]) > 0
    fits, is_off = bends and slides_m[1] < 0.5 * slides_m[0], bends and slides_m[0] < 0.5 * slides_m[1]
    travels = np.linalg.norm(np.ptp(root_m[:, [0, 2]], axis=0)) > _TRAVEL_M * min(scale, 1.0)
    known = any(0.95 <= scale / r <= 1.08 or 0.95 <= scale * r <= 1.08 for r in _UNIT_RATIOS)
    if fits or (known and travels and not is_off):
        clip.fail(
            f"the hips move up and down as if the figure were {scale:.3g} times its size; the root's positions are in "
            "another unit than the offsets; write both in one unit (for a figure that stays in place, zeros; the floor "
            "at y = 0)"
        )


def _check_angles(clip: _Clip) -> None:
    """Fails if the figure keeps its rest pose although it travels, or although its arms are stretched out in it."""
    cosine = 0.5 * (np.trace(clip.body.joint_rotations[:, 1:], axis1=-2, axis2=-1) - 1.0)
    largest_deg = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))).max())
    if largest_deg > _STIFF_DEG:
        return
    travel_m = float(np.linalg.norm(np.ptp(clip.body.root_position_m[:, [0, 2]], axis=0)))
    arm = clip.body.offsets_m[clip.part["l_forearm"]]
    stretched = abs(arm[1]) < 0.5 * np.linalg.norm(arm)
    if travel_m > _TRAVEL_M or stretched:
        pose = "with its arms stretched out" if stretched else f"while it travels {travel_m:.2g} m"
        clip.fail(
            f"no joint turns by more than {largest_deg:.2g} degrees, so the figure stays in its rest pose {pose}; "
            "angles in radians are read as degrees: write degrees (BVH), or 'angle rad' and :RADIANS (ASF, AMC)"
        )


def _check_knees(clip: _Clip) -> None:
    bent_deg = []
    for side in "lr":
        thigh, shin, foot = (clip.joints_m[:, clip.part[f"{side}_{name}"]] for name in ("thigh", "shin", "foot"))
        upper, lower = shin - thigh, foot - shin
        left = clip.rotations[:, clip.part[f"{side}_thigh"], :, 0]
        sine, cosine = (np.cross(upper, lower) * left).sum(-1), (upper * lower).sum(-1)
        bent_deg.append(np.degrees(np.arctan2(sine, cosine)))
    bent = np.abs(bent_deg) > _BENT_DEG
    forwards = float(np.mean(np.array(bent_deg)[bent] < 0)) if bent.any() else 0.0
    if forwards > _WRONG_KNEES and bent.mean() > 0.1:
        clip.fail(
            f"the knees bend forwards in {forwards:.0%} of the frames in which they are bent; axes or angles are "
            "mirrored (left-handed programs), or the order of the rotations is wrong"
        )
