"""Procedural motion: a chain of activities in a random style for each person.

An activity (walking, reaching, sitting, ...) is a set of curves: where pelvis, ankles and wrists go, how the spine
bends, how fast the gait is. Two-bone inverse kinematics turns the curves into joint rotations, so that standing feet
stay in place. The gaze is independent of the activity, so that the pose of the head does not predict the limbs. All
numbers are our choice.
"""

from collections.abc import Sequence

import numpy as np

from epfv2_jax.data.mocap.clip import FPS, MotionClip
from epfv2_jax.data.synthetic.activities import ACTIVITIES, keys, neutral, smooth
from epfv2_jax.data.synthetic.animation import animate

_BLEND_S = 0.6


def sample_motion(
    rng: np.random.Generator,
    offsets_m: np.ndarray,
    num_frames: int,
    fps: float = FPS,
    activities: Sequence[str] = tuple(ACTIVITIES),
) -> MotionClip:
    """Returns `num_frames` of motion at `fps` frames a second near the origin, on bones with `offsets_m` (J, 3).

    Some of `activities`, of 1.5 to 3.5 s, follow one another in one style (speed, amplitude, posture). The lower foot
    is on the floor, y = 0, in every frame. Deterministic in the state of `rng`.
    """
    # The clip may begin in the middle of an activity.
    time_s = np.arange(num_frames) / fps + rng.uniform(0.0, 1.5)
    tempo, amplitude = rng.uniform(0.75, 1.3), rng.uniform(0.75, 1.2)
    posture = neutral(rng, time_s * tempo)
    starts = [0.0]
    while starts[-1] < time_s[-1]:
        starts.append(starts[-1] + rng.uniform(1.5, 3.5))
    order = rng.permutation(list(activities))
    curves = {name: np.zeros_like(curve) for name, curve in posture.items()}
    for i, start in enumerate(starts[:-1]):
        begun = smooth((time_s - start) / _BLEND_S) if i else np.ones_like(time_s)
        ended = smooth((time_s - starts[i + 1]) / _BLEND_S) if i + 2 < len(starts) else np.zeros_like(time_s)
        activity = posture | ACTIVITIES[str(order[i % len(order)])](rng, time_s * tempo, posture)
        for name, curve in activity.items():
            changed = posture[name] + amplitude * (curve - posture[name])
            curves[name] += (begun * (1.0 - ended))[:, None] * changed
    # The activities ran on the person's own time, faster or slower by `tempo`; rates are per second of real time.
    curves["cadence"] *= tempo
    curves["turn"] *= tempo
    gaze = keys(rng, time_s, (-0.9, -0.5, -0.12), (0.9, 0.45, 0.12), hold_s=1.1)
    return animate(
        curves, gaze, offsets_m, heading0=rng.uniform(-np.pi, np.pi), phase0=rng.uniform(0.0, 2 * np.pi), fps=fps
    )
