"""Procedural activities: curves of pelvis, spine, ankles, wrists and gait over time. All numbers are our choice."""

from collections.abc import Callable

import numpy as np

Curves = dict[str, np.ndarray]  # name -> (F, k)


def neutral(rng: np.random.Generator, time_s: np.ndarray) -> Curves:
    """Returns the curves of standing with the arms at the sides.

    Angles are in radians, lengths in leg lengths (hip to ankle) or arm lengths.
    """
    n = len(time_s)

    def constant(*values: float) -> np.ndarray:
        return np.tile(np.array(values), (n, 1))

    sway = keys(rng, time_s, (-0.03, -0.04, -0.06), (0.06, 0.04, 0.06), hold_s=1.5)
    arm = [rng.uniform(0.08, 0.24), rng.uniform(-0.95, -0.85), rng.uniform(0.0, 0.2)]
    # The feet are a little in front of the hips, one foot in front of the other.
    stance, before, apart = rng.uniform(0.09, 0.22), rng.uniform(0.02, 0.11), rng.uniform(-0.08, 0.08)
    return {
        "height": constant(rng.uniform(0.96, 0.985)),  # of the hips above the ankles
        "pelvis": sway,  # pitch forward, roll to the right, yaw to the left
        "spine": sway[:, ::-1] * 0.8
        + constant(rng.uniform(0.0, 0.15), 0.0, 0.0),  # the same angles, spread over four joints
        "stride": constant(0.0),  # half the length of a step
        "cadence": constant(0.0),  # gait cycles a second
        "lift": constant(0.0),  # how high the feet are lifted
        "turn": constant(0.0),  # radians a second to the left
        "swing": constant(0.0),  # of the arms with the gait
        # Outward, up, forward of the point below the pelvis; left then right.
        "ankles": constant(stance, 0.0, before + apart, stance, 0.0, before - apart),
        # Outward, up, forward of the shoulder in the chest's axes; left then right.
        "wrists": np.concatenate([constant(*arm, *arm) + keys(rng, time_s, [-0.04] * 6, [0.04] * 6, hold_s=1.0)], 1),
        "elbows": constant(*rng.uniform(0.2, 0.9, 2)),  # how far the elbows point outward
        "hands": keys(rng, time_s, [-0.5] * 2, [0.5] * 2, hold_s=0.8),  # bend of the wrists
    }


def _walk(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    stride = rng.uniform(0.16, 0.34)
    curves = {
        "height": posture["height"] - 0.02 - 0.4 * stride**2,
        "stride": np.full_like(posture["stride"], stride * rng.choice([1.0, 1.0, 1.0, -0.6])),
        "cadence": np.full_like(posture["cadence"], rng.uniform(0.7, 1.05)),
        "lift": np.full_like(posture["lift"], rng.uniform(0.08, 0.22)),
        "turn": keys(rng, time_s, (-0.9,), (0.9,), hold_s=1.0),
        "swing": np.full_like(posture["swing"], rng.uniform(0.1, 0.45)),
        "ankles": posture["ankles"] * np.array([0.7, 1.0, 0.5] * 2),
    }
    if rng.random() < 0.35:  # carrying something, or hands in motion
        curves |= {"wrists": _gesturing(rng, time_s), "swing": posture["swing"]}
    return curves


def _turn(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    rate = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 2.2)
    return {
        "turn": np.full_like(posture["turn"], rate),
        "cadence": np.full_like(posture["cadence"], rng.uniform(0.9, 1.2)),
        "lift": np.full_like(posture["lift"], rng.uniform(0.06, 0.14)),
        "spine": posture["spine"] + np.array([0.0, 0.0, 0.2 * np.sign(rate)]),
        "swing": np.full_like(posture["swing"], 0.1),
    }


def _reach(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    targets = keys(rng, time_s, [-0.3, -0.5, 0.25] * 2, [0.8, 0.75, 0.95] * 2, hold_s=0.8)
    arms = rng.choice(["l", "r", "both"])
    wrists = posture["wrists"].copy()
    for side, columns in (("l", slice(0, 3)), ("r", slice(3, 6))):
        if arms in (side, "both"):
            wrists[:, columns] = targets[:, columns]
    toward = {"l": 0.3, "r": -0.3, "both": 0.0}[str(arms)]
    depth = keys(rng, time_s, (0.0,), (0.9,), hold_s=1.2)[:, 0]
    bend = np.stack([0.7 * depth, 0.5 * depth * toward, -toward * depth], axis=1)
    pelvis = np.stack([0.6 * depth, np.zeros_like(depth), np.zeros_like(depth)], axis=1)
    return {
        "wrists": wrists,
        "spine": posture["spine"] + bend,
        "pelvis": posture["pelvis"] + pelvis,
        "height": posture["height"] - 0.12 * depth[:, None],
        "elbows": keys(rng, time_s, (0.2, 0.2), (1.0, 1.0), hold_s=1.0),
    }


def _squat(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    depth = keys(rng, time_s, (0.0,), (1.0,), hold_s=0.7, extremes=True)
    deepest = rng.uniform(0.3, 0.6)
    side = [rng.uniform(-0.1, 0.5), rng.uniform(-0.6, 0.1), rng.uniform(0.6, 0.95)]
    forward = np.array([rng.uniform(0.4, 0.8), 0.0, 0.0])
    return {
        "height": posture["height"] - depth * deepest,
        "pelvis": posture["pelvis"] + depth * forward,
        "spine": posture["spine"] + depth * 0.4 * forward,
        "ankles": posture["ankles"] * rng.uniform(1.0, 1.6) + depth * np.array([0.03, 0.0, 0.14] * 2),
        "wrists": posture["wrists"] + depth * (np.array(side * 2) - posture["wrists"]),
    }


def _sit(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    seat = rng.uniform(0.42, 0.6)
    feet = keys(rng, time_s, [0.08, 0.0, 0.35] * 2, [0.22, 0.0, 0.7] * 2, hold_s=2.0)
    lap = [rng.uniform(-0.25, 0.1), rng.uniform(-0.8, -0.6), rng.uniform(0.35, 0.6)]
    wrists = np.tile(lap * 2, (len(time_s), 1)) + keys(rng, time_s, [-0.08] * 6, [0.08] * 6, hold_s=1.0)
    if rng.random() < 0.5:
        wrists = _gesturing(rng, time_s)
    lean = np.array([rng.uniform(-0.25, 0.15), 0.0, 0.0])
    return {
        "height": np.full_like(posture["height"], seat),
        "pelvis": posture["pelvis"] + lean,
        "spine": posture["spine"] - 0.4 * lean + keys(rng, time_s, (-0.1, -0.1, -0.3), (0.4, 0.1, 0.3), hold_s=1.5),
        "ankles": feet,
        "wrists": wrists,
    }


def _wave(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    beat = np.sin(2 * np.pi * rng.uniform(1.0, 2.0) * time_s)[:, None]
    high = np.array([rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.5)])
    waved = high + beat * np.array([rng.uniform(0.12, 0.3), 0.03, 0.0])
    wrists = posture["wrists"].copy()
    columns = slice(0, 3) if rng.random() < 0.5 else slice(3, 6)
    wrists[:, columns] = waved
    if rng.random() < 0.25:
        wrists = np.tile(waved, (1, 2))
    return {"wrists": wrists, "elbows": posture["elbows"] + 0.2}


def _talk(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    return {
        "wrists": _gesturing(rng, time_s),
        "spine": posture["spine"] + keys(rng, time_s, (-0.1, -0.1, -0.4), (0.25, 0.1, 0.4), hold_s=1.2),
    }


def _stretch(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    wrists = keys(rng, time_s, [0.0, -0.6, -0.3] * 2, [1.0, 1.0, 0.5] * 2, hold_s=0.9)
    return {
        "wrists": wrists / np.repeat(np.linalg.norm(wrists.reshape(-1, 2, 3), axis=-1), 3, axis=1),
        "spine": posture["spine"] + keys(rng, time_s, (-0.2, -0.4, -0.5), (0.3, 0.4, 0.5), hold_s=1.0),
    }


def _kick(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    lifted = keys(rng, time_s, (0.0,), (1.0,), hold_s=0.5, extremes=True)
    high = np.array([rng.uniform(0.0, 0.25), rng.uniform(0.2, 0.55), rng.uniform(0.1, 0.7)])
    ankles = posture["ankles"].copy()
    columns = slice(0, 3) if rng.random() < 0.5 else slice(3, 6)
    ankles[:, columns] += lifted * high
    wrists = posture["wrists"] + lifted * np.array([0.35, 0.2, rng.uniform(-0.2, 0.4)] * 2)
    return {"ankles": ankles, "wrists": wrists}


def _behind(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    """Hands go behind the back or the head, where no camera sees them, and come back."""
    gone = keys(rng, time_s, (0.0, 0.0), (1.0, 1.0), hold_s=0.8, extremes=True)
    wrists, elbows = posture["wrists"].copy(), posture["elbows"].copy()
    for side in range(2):
        if rng.random() < 0.6:  # the small of the back
            hidden, elbow = [rng.uniform(-0.3, 0.0), rng.uniform(-0.75, -0.6), rng.uniform(-0.4, -0.25)], 1.0
        else:  # the back of the head
            hidden, elbow = [rng.uniform(-0.25, 0.0), rng.uniform(0.25, 0.45), rng.uniform(-0.35, -0.2)], 1.5
        columns, away = slice(3 * side, 3 * side + 3), gone[:, side : side + 1]
        wrists[:, columns] += away * (np.array(hidden) - wrists[:, columns])
        elbows[:, side] += away[:, 0] * (elbow - elbows[:, side])
    return {"wrists": wrists, "elbows": elbows}


def _stand(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    hips = [rng.uniform(-0.2, 0.05), rng.uniform(-0.65, -0.5), rng.uniform(0.1, 0.35)]
    folded = {"wrists": np.tile(hips * 2, (len(time_s), 1)), "elbows": np.full_like(posture["elbows"], 1.2)}
    return folded if rng.random() < 0.4 else {}


#: What people do: name -> the curves that differ from the posture.
ACTIVITIES: dict[str, Callable[[np.random.Generator, np.ndarray, Curves], Curves]] = {
    "walk": _walk,
    "walk_on": _walk,
    "turn": _turn,
    "reach": _reach,
    "reach_on": _reach,
    "squat": _squat,
    "sit": _sit,
    "wave": _wave,
    "talk": _talk,
    "stretch": _stretch,
    "kick": _kick,
    "behind": _behind,
    "stand": _stand,
}


def _gesturing(rng: np.random.Generator, time_s: np.ndarray) -> np.ndarray:
    return keys(rng, time_s, [-0.35, -0.75, 0.3] * 2, [0.35, 0.1, 0.75] * 2, hold_s=0.6)


def keys(rng: np.random.Generator, time_s: np.ndarray, low, high, hold_s: float, extremes: bool = False) -> np.ndarray:
    """Returns curves (F, k) that move smoothly to a new random value in [low, high] about every `hold_s`.

    With `extremes` the values alternate between the ends of the interval.
    """
    knots = time_s[0] + np.cumsum(rng.uniform(0.5, 1.5, int(np.ptp(time_s) / (0.5 * hold_s)) + 3) * hold_s) - hold_s
    knots[0] = time_s[0]
    draws = rng.random((len(knots), len(low)))
    if extremes:
        draws = 0.25 * draws + 0.75 * (np.arange(len(knots)) + rng.integers(2))[:, None] % 2
    values = np.asarray(low) + draws * (np.asarray(high) - np.asarray(low))
    i = np.clip(np.searchsorted(knots, time_s, side="right") - 1, 0, len(knots) - 2)
    way = smooth((time_s - knots[i]) / (knots[i + 1] - knots[i]))[:, None]
    return values[i] + way * (values[i + 1] - values[i])


def smooth(x: np.ndarray) -> np.ndarray:
    """Returns the minimum-jerk step from 0 to 1 at x."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 - 15.0 * x + 6.0 * x**2)
