"""Checks of the wearer's joints."""

from collections.abc import Iterator

import numpy as np

from epfv2_jax.core.findings import Finding
from epfv2_jax.geometry.plausibility.text import HEADSET_AXES, vector
from epfv2_jax.geometry.skeleton import Skeleton

#: How much farther from the headset than at rest the top of the body is at most, metres; and how near it may be.
MAX_HEAD_OFFSET_M, MIN_HEAD_DISTANCE_M = 0.36, 0.02
#: Where the head is in headset axes (x left, y up, z forward), median over the frames, metres.
HEAD_BOX_M = ((-0.05, 0.05), (-0.30, 0.05), (-0.30, 0.05))
#: Largest standard deviation of the head in the headset frame, metres.
MAX_HEAD_SD_M = 0.05
#: Median length of a body's bones relative to the rest pose.
BODY_SCALE = (0.55, 1.5)
#: Least share of up in the way from the lowest joints to the top, in the world; in the headset frame it is 0.
MIN_STANDING = 0.3
#: Largest standard deviation of a bone's length relative to its mean.
MAX_LENGTH_VARIATION = 0.03

# Limits are of medians over the frames. `joints_m` (N, J, 3) float64 is in the world, NaN where a joint is not valid.


def body(
    joints_world_m: np.ndarray, joint_valid: np.ndarray, T_world_headset: np.ndarray, skeleton: Skeleton
) -> Iterator[Finding]:
    """Yields what the checks of the wearer's joints, in a world whose y is up, found.

    Each check takes the median over the frames: a person may lie down or stand on the hands for less than half of them.
    What no joint tells passes.

    Args:
      joints_world_m: (N, J, 3) true joints.
      joint_valid: (N, J) bool; joints that are not valid are left out.
      T_world_headset: (N, 4, 4) headset to world, metres.
      skeleton: of the joints; its rest pose says what is up, left and how long.
    """
    joints_m = np.where(joint_valid[..., None], joints_world_m, np.nan).astype(np.float64)
    T = np.asarray(T_world_headset, np.float64)
    rest_m = skeleton.rest_joints_headset_m().astype(np.float64)
    yield _scale(joints_m, rest_m, skeleton)
    yield _head_distance(joints_m, T, rest_m, skeleton)
    yield from _standing(joints_m, T, rest_m)
    yield from _sides(joints_m, T, rest_m, skeleton)
    yield from _head_place(joints_m, T, rest_m, skeleton)
    yield from _bone_lengths(joints_m, rest_m, skeleton)


def _scale(joints_m: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> Finding:
    ratios = [
        np.linalg.norm(joints_m[:, j] - joints_m[:, parent], axis=-1) / np.linalg.norm(rest_m[j] - rest_m[parent])
        for parent, j in _long_bones(rest_m, skeleton)
    ]
    scale = float(_median(np.ravel(ratios)))
    hint = _unit_hint(factor for factor in _FACTORS if BODY_SCALE[0] <= factor * scale <= BODY_SCALE[1])
    problem = (
        f"the body is {scale:.3g} times as large as a grown person; are the joints in another unit than metres?{hint}"
    )
    return Finding(
        check="scale",
        value=_known(scale, f"{scale:.3g} of a grown person"),
        limit=f"{BODY_SCALE[0]} to {BODY_SCALE[1]}",
        problem=problem if scale < BODY_SCALE[0] or scale > BODY_SCALE[1] else "",
    )


def _head_distance(joints_m: np.ndarray, T: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> Finding:
    """Returns how far the top of the body is from the headset."""
    top = int(rest_m[:, 1].argmax())
    name, rest_distance_m = skeleton.joint_names[top], float(np.linalg.norm(rest_m[top]))

    def distance(factor: float) -> float:
        return float(_median(np.linalg.norm(factor * joints_m[:, top] - T[:, :3, 3], axis=-1)))

    distance_m, most_m = distance(1.0), rest_distance_m + MAX_HEAD_OFFSET_M
    least_m = MIN_HEAD_DISTANCE_M if rest_distance_m > 2 * MIN_HEAD_DISTANCE_M else 0.0
    hint = _unit_hint(factor for factor in _FACTORS if least_m <= distance(factor) <= most_m)
    problem = (
        f"{name} is {distance_m:.3g} m from the headset; are joints and headset poses in one unit, one world and "
        f"of one time, and does T_world_headset map headset to world?{hint}"
    )
    return Finding(
        check="head_distance",
        value=_known(distance_m, f"{name}: {100 * distance_m:.3g} cm"),
        limit=f"{100 * least_m:.0f} to {100 * most_m:.0f} cm",
        problem=problem if distance_m > most_m or distance_m < least_m else "",
    )


def _head_place(joints_m: np.ndarray, T: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> Iterator[Finding]:
    """Yields where the top of the body is in headset axes, and how it moves there."""
    top = int(rest_m[:, 1].argmax())
    name = skeleton.joint_names[top]
    head_m = np.einsum("nji,nj->ni", T[:, :3, :3], joints_m[:, top] - T[:, :3, 3])
    if all(low <= at <= high for at, (low, high) in zip(rest_m[top], HEAD_BOX_M, strict=True)):
        yield _head_offset(name, _median(head_m))
    known = head_m[np.isfinite(head_m).all(-1)]
    sd_m = float(np.sqrt(known.var(axis=0).sum())) if len(known) else np.nan
    problem = (
        f"{name} moves by {100 * sd_m:.3g} cm (standard deviation) in the headset frame; are poses and joints of one "
        "clock and frame, and in metres?"
    )
    yield Finding(
        check="head_rigid",
        value=_known(sd_m, f"{name}: {100 * sd_m:.2g} cm"),
        limit=f"at most {100 * MAX_HEAD_SD_M:.0f} cm",
        problem=problem if sd_m > MAX_HEAD_SD_M else "",
    )


def _head_offset(name: str, place_m: np.ndarray) -> Finding:
    place = f"{vector(100 * place_m, 1)} cm"
    outside = any(at < low or at > high for at, (low, high) in zip(place_m, HEAD_BOX_M, strict=True))
    problem = (
        f"{name} is at {place} in {HEADSET_AXES}; is the order of the quaternion's columns wrong, T_world_headset "
        "inverted, T_headset_body wrong, the axes left-handed, or are the joints of another frame?"
    )
    return Finding(
        check="head_offset",
        value=_known(float(place_m[0]), f"{name}: {place}"),
        limit=", ".join(f"{100 * low:.0f} to {100 * high:.0f}" for low, high in HEAD_BOX_M) + " cm",
        problem=problem if outside else "",
    )


def _standing(joints_m: np.ndarray, T: np.ndarray, rest_m: np.ndarray) -> Iterator[Finding]:
    """Yields which way the body stands, in the world and in the headset frame."""
    if np.ptp(rest_m[:, 1]) < 0.3:
        return  # such as arms alone, which may point anywhere
    top, bottom = int(rest_m[:, 1].argmax()), _lowest_known(joints_m, rest_m)
    upward = joints_m[:, top] - joints_m[:, bottom].mean(axis=1)
    in_headset = np.einsum("nji,nj->ni", T[:, :3, :3], upward)
    remedy = "world, not along y; y must be up: turn joints and poses, or set world_up"
    yield _along("world_up", _median(upward), MIN_STANDING, remedy)
    remedy = (
        "headset, whose y is up; is T_headset_body or the order of the quaternion's columns wrong, or T_world_headset "
        "inverted?"
    )
    yield _along("up_axis", _median(in_headset), 0.0, remedy)


def _along(check: str, upward: np.ndarray, limit: float, remedy: str) -> Finding:
    length = np.linalg.norm(upward)
    share = float(upward[1] / length) if length > 0 else np.nan
    axis = int(np.abs(upward).argmax())
    along = f"{'-' if upward[axis] < 0 else ''}{'xyz'[axis]}"
    return Finding(
        check=check,
        value=_known(share, f"{share:.2f} of y"),
        limit=f"at least {limit}",
        problem=f"the body stands along {along} of the {remedy}" if share < limit else "",
    )


def _sides(joints_m: np.ndarray, T: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> Iterator[Finding]:
    """Yields whether left is left, and whether the body is one and not its mirror image."""
    sides = [(j, m) for j, m in enumerate(skeleton.mirror) if rest_m[j, 0] - rest_m[m, 0] > 0.1]
    if not sides:
        return
    leftward = _mean([joints_m[:, j] - joints_m[:, m] for j, m in sides])
    left_m = float(_median((leftward * T[:, :3, 0]).sum(-1)))
    problem = (
        f"left joints are {-100 * left_m:.0f} cm to the wearer's right; are left and right exchanged, or the axes "
        "left-handed?"
    )
    yield Finding(
        check="left_right",
        value=_known(left_m, f"{100 * left_m:.3g} cm"),
        limit="above 0",
        problem=problem if left_m < 0 else "",
    )
    # Such as the toes: joints that lie in front of or behind their parents. Forward is to the right of leftward.
    forward = np.cross(leftward, [0.0, 1.0, 0.0])
    ahead = [
        np.sign(depth_m) * ((joints_m[:, j] - joints_m[:, parent]) * forward).sum(-1)
        for parent, j in _bones(skeleton)
        if abs(depth_m := rest_m[j, 2] - rest_m[parent, 2]) > 0.03
    ]
    if ahead:
        length = np.linalg.norm(forward, axis=-1)
        ahead_m = float(_median(_mean(ahead) / np.where(length > 0, length, np.nan)))
        problem = (
            "toes and shoulders point backward while left is left: the body is mirrored; are the axes left-handed?"
        )
        yield Finding(
            check="handedness",
            value=_known(ahead_m, f"{100 * ahead_m:.2g} cm"),
            limit="above 0",
            problem=problem if ahead_m < 0 else "",
        )


def _bone_lengths(joints_m: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> Iterator[Finding]:
    """Yields the bone whose length changes most, a warning."""
    variation = {}
    for parent, j in _long_bones(rest_m, skeleton):
        length = np.linalg.norm(joints_m[:, j] - joints_m[:, parent], axis=-1)
        if len(length := length[np.isfinite(length)]) and length.mean() > 0:
            variation[f"{skeleton.joint_names[parent]}-{skeleton.joint_names[j]}"] = float(length.std() / length.mean())
    if variation:
        name = max(variation, key=variation.get)
        problem = f"{name} varies by {variation[name]:.0%} in length: the joints are not rigid (triangulated?)"
        yield Finding(
            check="bone_length",
            value=f"{name}: {variation[name]:.1%}",
            limit=f"at most {MAX_LENGTH_VARIATION:.0%}",
            problem=problem if variation[name] > MAX_LENGTH_VARIATION else "",
            is_error=False,
        )


_FACTORS = {0.01: "cm", 0.001: "mm"}


def _unit_hint(fitting: Iterator[float]) -> str:
    """Returns what unit the joints seem to have, of the factors to metres that fit."""
    return "".join(f" Times {factor} they fit: they are in {_FACTORS[factor]}" for factor in fitting)


def _known(number: float, text: str) -> str:
    return text if np.isfinite(number) else "not known"


def _bones(skeleton: Skeleton) -> list[tuple[int, int]]:
    return [(parent, j) for j, parent in enumerate(skeleton.parents) if parent >= 0]


def _long_bones(rest_m: np.ndarray, skeleton: Skeleton) -> list[tuple[int, int]]:
    return [(parent, j) for parent, j in _bones(skeleton) if np.linalg.norm(rest_m[j] - rest_m[parent]) > 0.1]


def _lowest_known(joints_m: np.ndarray, rest_m: np.ndarray) -> np.ndarray:
    """Returns the joints that are lowest at rest, of those that are ever valid."""
    known = np.isfinite(joints_m).all(-1).any(0)
    height_m = np.where(known, rest_m[:, 1], np.inf) if known.any() else rest_m[:, 1]
    return np.flatnonzero(height_m < height_m.min() + 0.1)


def _mean(values: list[np.ndarray]) -> np.ndarray:
    """Returns the mean of the arrays at each place, of those that are not NaN there; NaN where there is none."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, stacked, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _median(values: np.ndarray) -> np.ndarray:
    """Returns the median over the leading axis of the entries without NaN; NaN where there is none."""
    known = values[np.isfinite(values).all(axis=tuple(range(1, values.ndim)))]
    return np.median(known, axis=0) if len(known) else np.full(values.shape[1:], np.nan)
