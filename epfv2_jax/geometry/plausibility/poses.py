"""Checks of the poses of a headset."""

from collections.abc import Iterator

import numpy as np

from epfv2_jax.core.findings import Finding

#: Highest that a headset is above or below the floor, metres.
MAX_HEIGHT_M = 20.0
#: Least share of the world's up in the headset's up axis, median over the frames.
MIN_HEADSET_UP = 0.3
#: Fastest that a headset moves and turns, metres and radians a second.
MAX_SPEED_M_S, MAX_TURN_RAD_S = 10.0, 20.0


def poses(T_world_headset: np.ndarray, time_s: np.ndarray) -> Iterator[Finding]:
    """Yields what the checks of headset poses (N, 4, 4) at increasing times (N,) found."""
    T = np.asarray(T_world_headset, np.float64)
    yield height(T)
    up = float(np.median(T[:, 1, 1]))
    yield Finding(
        check="headset_up",
        value=f"{up:.2f}",
        limit=f"at least {MIN_HEADSET_UP}",
        problem=""
        if up >= MIN_HEADSET_UP
        else f"the headset's up axis has {up:.2f} of the world's up: is T_headset_body, world_up or the order of "
        "the quaternion's columns wrong, or are the axes left-handed?",
    )
    if len(T) > 1:
        yield from _speeds(T, np.diff(time_s))


def height(T_world_headset: np.ndarray) -> Finding:
    """Returns whether headset poses (N, 4, 4) are in metres above a floor at y = 0."""
    height_m = float(np.median(np.asarray(T_world_headset, np.float64)[:, 1, 3]))
    problem = (
        f"T_world_headset: the headset is {height_m:.4g} m above the floor at y = 0; is it in cm or mm, or is the "
        "world's floor elsewhere?"
    )
    return Finding(
        check="height",
        value=f"{height_m:.4g} m",
        limit=f"{-MAX_HEIGHT_M:.0f} to {MAX_HEIGHT_M:.0f} m",
        problem=problem if abs(height_m) > MAX_HEIGHT_M else "",
    )


def _speeds(T: np.ndarray, step_s: np.ndarray) -> Iterator[Finding]:
    """Yields the largest speeds, warnings: one jump of a tracker ends no recording."""
    moved_m = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=-1)
    cosine = (np.einsum("nij,nij->n", T[:-1, :3, :3], T[1:, :3, :3]) - 1) / 2
    turned_rad = np.arccos(np.clip(cosine, -1, 1))
    for check, path, limit, unit in (
        ("speed", moved_m, MAX_SPEED_M_S, "m/s"),
        ("turn_speed", turned_rad, MAX_TURN_RAD_S, "rad/s"),
    ):
        speed = path / step_s
        i = int(speed.argmax())
        problem = f"the headset moves at {speed[i]:.3g} {unit} from frame {i} to the next: a jump of the tracker?"
        yield Finding(
            check=check,
            value=f"{speed[i]:.3g} {unit}",
            limit=f"at most {limit:.0f} {unit}",
            problem=problem if speed[i] > limit else "",
            is_error=False,
        )
