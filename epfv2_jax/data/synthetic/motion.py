"""Motion of a person as rotations of the 26 joints over time, and the procedural model that invents it.

The model blends activities (walking, reaching, sitting, ...). An activity is a set of curves: where pelvis, ankles and
wrists go, how the spine bends, how the gait runs. Two-bone inverse kinematics turns the curves into joint rotations, so
standing feet stay where they are. The gaze wanders on its own, so the head's pose does not tell what the limbs do.
All of it is our choice.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from epfv2_jax.data.mocap.articulated import euler_matrix
from epfv2_jax.geometry import skeleton

#: Frames a second of procedural motion: that of the data set.
FPS = 30.0

#: Points of the sole: the joint that carries them and where they lie from it in the foot's axes, metres in the rest
#: pose.
SOLE_POINTS: tuple[tuple[str, tuple[float, float, float]], ...] = (
    ("subtalar", (0.0, -0.025, -0.045)),
    ("transversetarsal", (0.0, -0.050, 0.020)),
    ("transversetarsal", (0.0, -0.050, 0.090)),
)

_BLEND_S = 0.6
_JOINT = {name: i for i, name in enumerate(skeleton.JOINT_NAMES)}
_SPINE = tuple(_JOINT[f"b_spine{i}"] for i in range(4))
_SIGN = {"l": 1.0, "r": -1.0}  # of x on that side of the body

Curves = dict[str, np.ndarray]  # name -> (F, k)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MotionClip:
    """F frames of one person: forward kinematics of these gives the joints in the world (y up, metres)."""

    fps: float
    root_rotation: np.ndarray  # (F, 3, 3) float32 R_world_root
    root_position_m: np.ndarray  # (F, 3) float32, in the world
    joint_rotations: np.ndarray  # (F, J, 3, 3) float32 local, R_parent_joint
    offsets_m: np.ndarray  # (J, 3) float32 from the parent, in the parent's axes; constant bone lengths

    @property
    def num_frames(self) -> int:
        return len(self.root_position_m)


def world_pose(clip: MotionClip) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R_world_joint (F, J, 3, 3), joints in the world (F, J, 3) in metres), float64 on the host.

    The joints are those of `geometry.kinematics.forward_kinematics`, which does not tell the rotations.
    """
    rotations = np.empty(clip.joint_rotations.shape)
    joints_m = np.empty(rotations.shape[:-1])
    for joint in (j for level in skeleton.DEPTH_LEVELS for j in level):
        parent = skeleton.PARENTS[joint]
        above, above_m = (
            (clip.root_rotation.astype(np.float64), clip.root_position_m)
            if parent < 0
            else (rotations[:, parent], joints_m[:, parent])
        )
        rotations[:, joint] = above @ clip.joint_rotations[:, joint]
        joints_m[:, joint] = above_m + above @ clip.offsets_m[joint].astype(np.float64)
    return rotations, joints_m


def sole_heights(clip: MotionClip) -> np.ndarray:
    """Returns the height (F,) in metres of the lowest point of both soles."""
    rotations, joints_m = world_pose(clip)
    size = -clip.offsets_m[_JOINT["b_l_leg"], 1] / -skeleton.REST_OFFSETS_M[_JOINT["b_l_leg"]][1]
    heights = [
        joints_m[:, _JOINT[f"b_{side}_{name}"], 1]
        + rotations[:, _JOINT[f"b_{side}_{name}"], 1] @ (size * np.array(point))
        for side in "lr"
        for name, point in SOLE_POINTS
    ]
    return np.min(heights, axis=0)


def cut(clip: MotionClip, start: int, stop: int, step: int = 1) -> MotionClip:
    """Returns every `step`-th of the frames [start, stop) of the clip."""
    part = slice(start, stop, step)
    return dataclasses.replace(
        clip,
        fps=clip.fps / step,
        root_rotation=clip.root_rotation[part],
        root_position_m=clip.root_position_m[part],
        joint_rotations=clip.joint_rotations[part],
    )


def grounded(clip: MotionClip) -> MotionClip:
    """Returns the clip moved up or down as a whole, so that the tenth percentile of its `sole_heights` is 0."""
    shift = np.array([0.0, np.quantile(sole_heights(clip), 0.1), 0.0])
    return dataclasses.replace(clip, root_position_m=(clip.root_position_m - shift).astype(np.float32))


def sample_motion(rng: np.random.Generator, offsets_m: np.ndarray, num_frames: int) -> MotionClip:
    """Returns `num_frames` of invented motion at 30 fps of a person with bones `offsets_m` (J, 3), near the origin.

    Several activities of 1.5 to 3.5 s follow one another, in a style (speed, amplitude, posture) drawn once. Lowest
    foot on the floor y = 0 in every frame. Deterministic in the state of `rng`.
    """
    # Starting before the first frame lets a clip begin in the middle of an activity.
    time_s = np.arange(num_frames) / FPS + rng.uniform(0.0, 1.5)
    tempo, amplitude = rng.uniform(0.75, 1.3), rng.uniform(0.75, 1.2)
    posture = _neutral(rng, time_s * tempo)
    starts = [0.0]
    while starts[-1] < time_s[-1]:
        starts.append(starts[-1] + rng.uniform(1.5, 3.5))
    order = rng.permutation(list(ACTIVITIES))
    curves = {name: np.zeros_like(curve) for name, curve in posture.items()}
    for i, start in enumerate(starts[:-1]):
        begun = _smooth((time_s - start) / _BLEND_S) if i else np.ones_like(time_s)
        ended = _smooth((time_s - starts[i + 1]) / _BLEND_S) if i + 2 < len(starts) else np.zeros_like(time_s)
        activity = posture | ACTIVITIES[str(order[i % len(order)])](rng, time_s * tempo, posture)
        for name, curve in activity.items():
            changed = posture[name] + amplitude * (curve - posture[name])
            curves[name] += (begun * (1.0 - ended))[:, None] * changed
    # The rates are per second of the person's own, faster or slower, time.
    curves["cadence"] *= tempo
    curves["turn"] *= tempo
    gaze = _keys(rng, time_s, (-0.9, -0.5, -0.12), (0.9, 0.45, 0.12), hold_s=1.1)
    return _animate(curves, gaze, offsets_m, heading0=rng.uniform(-np.pi, np.pi), phase0=rng.uniform(0.0, 2 * np.pi))


def _neutral(rng: np.random.Generator, time_s: np.ndarray) -> Curves:
    """Standing, arms at the sides. Angles in radians, lengths in leg lengths (hip to ankle) or arm lengths."""
    n = len(time_s)

    def constant(*values: float) -> np.ndarray:
        return np.tile(np.array(values), (n, 1))

    sway = _keys(rng, time_s, (-0.03, -0.04, -0.06), (0.06, 0.04, 0.06), hold_s=1.5)
    arm = [rng.uniform(0.08, 0.24), rng.uniform(-0.95, -0.85), rng.uniform(0.0, 0.2)]
    # Who stands upright has the feet a little before the hips, one foot before the other.
    stance, before, apart = rng.uniform(0.09, 0.22), rng.uniform(0.02, 0.11), rng.uniform(-0.08, 0.08)
    return {
        "height": constant(rng.uniform(0.96, 0.985)),  # of the hips above the ankles
        "pelvis": sway,  # pitch forward, roll to the right, yaw to the left
        "spine": sway[:, ::-1] * 0.8 + constant(rng.uniform(0.0, 0.15), 0.0, 0.0),  # same angles, over four joints
        "stride": constant(0.0),  # half the length of a step
        "cadence": constant(0.0),  # gait cycles a second
        "lift": constant(0.0),  # how high the feet are lifted
        "turn": constant(0.0),  # radians a second to the left
        "swing": constant(0.0),  # of the arms with the gait
        # Outward, up, forward of the point below the pelvis; left then right.
        "ankles": constant(stance, 0.0, before + apart, stance, 0.0, before - apart),
        # Outward, up, forward of the shoulder in the chest's axes; left then right.
        "wrists": np.concatenate([constant(*arm, *arm) + _keys(rng, time_s, [-0.04] * 6, [0.04] * 6, hold_s=1.0)], 1),
        "elbows": constant(*rng.uniform(0.2, 0.9, 2)),  # how far the elbows point outward
        "hands": _keys(rng, time_s, [-0.5] * 2, [0.5] * 2, hold_s=0.8),  # bend of the wrists
    }


def _walk(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    stride = rng.uniform(0.16, 0.34)
    curves = {
        "height": posture["height"] - 0.02 - 0.4 * stride**2,
        "stride": np.full_like(posture["stride"], stride * rng.choice([1.0, 1.0, 1.0, -0.6])),
        "cadence": np.full_like(posture["cadence"], rng.uniform(0.7, 1.05)),
        "lift": np.full_like(posture["lift"], rng.uniform(0.08, 0.22)),
        "turn": _keys(rng, time_s, (-0.9,), (0.9,), hold_s=1.0),
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
    targets = _keys(rng, time_s, [-0.3, -0.5, 0.25] * 2, [0.8, 0.75, 0.95] * 2, hold_s=0.8)
    arms = rng.choice(["l", "r", "both"])
    wrists = posture["wrists"].copy()
    for side, columns in (("l", slice(0, 3)), ("r", slice(3, 6))):
        if arms in (side, "both"):
            wrists[:, columns] = targets[:, columns]
    toward = {"l": 0.3, "r": -0.3, "both": 0.0}[str(arms)]
    depth = _keys(rng, time_s, (0.0,), (0.9,), hold_s=1.2)[:, 0]
    bend = np.stack([0.7 * depth, 0.5 * depth * toward, -toward * depth], axis=1)
    pelvis = np.stack([0.6 * depth, np.zeros_like(depth), np.zeros_like(depth)], axis=1)
    return {
        "wrists": wrists,
        "spine": posture["spine"] + bend,
        "pelvis": posture["pelvis"] + pelvis,
        "height": posture["height"] - 0.12 * depth[:, None],
        "elbows": _keys(rng, time_s, (0.2, 0.2), (1.0, 1.0), hold_s=1.0),
    }


def _squat(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    depth = _keys(rng, time_s, (0.0,), (1.0,), hold_s=0.7, extremes=True)
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
    feet = _keys(rng, time_s, [0.08, 0.0, 0.35] * 2, [0.22, 0.0, 0.7] * 2, hold_s=2.0)
    lap = [rng.uniform(-0.25, 0.1), rng.uniform(-0.8, -0.6), rng.uniform(0.35, 0.6)]
    wrists = np.tile(lap * 2, (len(time_s), 1)) + _keys(rng, time_s, [-0.08] * 6, [0.08] * 6, hold_s=1.0)
    if rng.random() < 0.5:
        wrists = _gesturing(rng, time_s)
    lean = np.array([rng.uniform(-0.25, 0.15), 0.0, 0.0])
    return {
        "height": np.full_like(posture["height"], seat),
        "pelvis": posture["pelvis"] + lean,
        "spine": posture["spine"] - 0.4 * lean + _keys(rng, time_s, (-0.1, -0.1, -0.3), (0.4, 0.1, 0.3), hold_s=1.5),
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
        "spine": posture["spine"] + _keys(rng, time_s, (-0.1, -0.1, -0.4), (0.25, 0.1, 0.4), hold_s=1.2),
    }


def _stretch(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    wrists = _keys(rng, time_s, [0.0, -0.6, -0.3] * 2, [1.0, 1.0, 0.5] * 2, hold_s=0.9)
    return {
        "wrists": wrists / np.repeat(np.linalg.norm(wrists.reshape(-1, 2, 3), axis=-1), 3, axis=1),
        "spine": posture["spine"] + _keys(rng, time_s, (-0.2, -0.4, -0.5), (0.3, 0.4, 0.5), hold_s=1.0),
    }


def _kick(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    lifted = _keys(rng, time_s, (0.0,), (1.0,), hold_s=0.5, extremes=True)
    high = np.array([rng.uniform(0.0, 0.25), rng.uniform(0.2, 0.55), rng.uniform(0.1, 0.7)])
    ankles = posture["ankles"].copy()
    columns = slice(0, 3) if rng.random() < 0.5 else slice(3, 6)
    ankles[:, columns] += lifted * high
    wrists = posture["wrists"] + lifted * np.array([0.35, 0.2, rng.uniform(-0.2, 0.4)] * 2)
    return {"ankles": ankles, "wrists": wrists}


def _stand(rng: np.random.Generator, time_s: np.ndarray, posture: Curves) -> Curves:
    hips = [rng.uniform(-0.2, 0.05), rng.uniform(-0.65, -0.5), rng.uniform(0.1, 0.35)]
    folded = {"wrists": np.tile(hips * 2, (len(time_s), 1)), "elbows": np.full_like(posture["elbows"], 1.2)}
    return folded if rng.random() < 0.4 else {}


#: What people do: name -> curves that differ from the posture.
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
    "stand": _stand,
}


def _gesturing(rng: np.random.Generator, time_s: np.ndarray) -> np.ndarray:
    return _keys(rng, time_s, [-0.35, -0.75, 0.3] * 2, [0.35, 0.1, 0.75] * 2, hold_s=0.6)


def _keys(rng: np.random.Generator, time_s: np.ndarray, low, high, hold_s: float, extremes: bool = False) -> np.ndarray:
    """Curves (F, k) that go smoothly from one random value in [low, high] to the next, about every `hold_s`."""
    knots = time_s[0] + np.cumsum(rng.uniform(0.5, 1.5, int(np.ptp(time_s) / (0.5 * hold_s)) + 3) * hold_s) - hold_s
    knots[0] = time_s[0]
    draws = rng.random((len(knots), len(low)))
    if extremes:  # to and fro
        draws = 0.25 * draws + 0.75 * (np.arange(len(knots)) + rng.integers(2))[:, None] % 2
    values = np.asarray(low) + draws * (np.asarray(high) - np.asarray(low))
    i = np.clip(np.searchsorted(knots, time_s, side="right") - 1, 0, len(knots) - 2)
    way = _smooth((time_s - knots[i]) / (knots[i + 1] - knots[i]))[:, None]
    return values[i] + way * (values[i + 1] - values[i])


def _smooth(x: np.ndarray) -> np.ndarray:
    """Minimum-jerk step from 0 to 1."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def _animate(curves: Curves, gaze: np.ndarray, offsets_m: np.ndarray, heading0: float, phase0: float) -> MotionClip:
    """Turns curves into joint rotations; `gaze` (F, 3) is yaw, pitch and roll of the head against the chest."""
    n = len(gaze)
    offsets = np.asarray(offsets_m, np.float64)
    leg = -(offsets[_JOINT["b_l_leg"]] + offsets[_JOINT["b_l_foot_twist"]])[1]
    heading = heading0 + np.cumsum(curves["turn"][:, 0]) / FPS
    phase = phase0 + 2 * np.pi * np.cumsum(curves["cadence"][:, 0]) / FPS
    stride, lift = curves["stride"][:, 0], curves["lift"][:, 0]
    R_world_heading = euler_matrix("y", heading[:, None])

    # The gait rolls and twists the pelvis a little.
    gait = np.stack([np.zeros(n), 0.15 * stride * np.sin(phase), 0.4 * stride * np.cos(phase)], axis=1)
    pelvis, spine = curves["pelvis"] + gait, curves["spine"] - 1.5 * gait
    R_heading_root = euler_matrix("xzy", pelvis)
    world = np.tile(np.eye(3), (n, skeleton.NUM_JOINTS, 1, 1))
    turned = R_root = R_world_heading @ R_heading_root
    for joint in _SPINE:
        turned = turned @ euler_matrix("xzy", spine / 4)
        world[:, joint] = turned
    # People keep their eyes up when they bend.
    pitch = gaze[:, 1] - 0.6 * (pelvis[:, 0] + spine[:, 0])
    half = 0.5 * np.stack([gaze[:, 0], pitch, gaze[:, 2]], axis=1)
    world[:, _JOINT["b_neck0"]] = turned @ euler_matrix("yxz", half)
    world[:, _JOINT["b_head"]] = world[:, _JOINT["b_neck0"]] @ euler_matrix("yxz", half)

    root_m = np.zeros((n, 3))
    speed = 4.0 * leg * stride * curves["cadence"][:, 0]
    root_m[1:] = np.cumsum((R_world_heading[:, :, 2] * speed[:, None])[1:], axis=0) / FPS
    root_m[:, 1] = leg * curves["height"][:, 0]
    for i, side in enumerate("lr"):
        step = (phase + i * np.pi) % (2 * np.pi) / np.pi  # 0 to 1 on the floor, 1 to 2 in the air
        air = np.clip(step - 1.0, 0.0, 1.0)
        along = np.where(step < 1.0, 1.0 - 2.0 * step, -np.cos(np.pi * air))
        ankle = curves["ankles"][:, 3 * i : 3 * i + 3].copy()
        up = ankle[:, 1] + lift * np.sin(np.pi * air) ** 2
        target = (
            np.stack([_SIGN[side] * ankle[:, 0], up - curves["height"][:, 0], ankle[:, 2] + stride * along], 1) * leg
        )
        hip = R_heading_root @ offsets[_JOINT[f"b_{side}_upleg"]]
        toes_down = np.where(curves["ankles"][:, 3 * i + 1] > 0, 0.5 * ankle[:, 1], 0) + 2.5 * lift * np.sin(
            2 * np.pi * air
        )
        _place_leg(world, side, R_world_heading, target - hip, offsets, toes_down)
    for i, side in enumerate("lr"):
        wrist = curves["wrists"][:, 3 * i : 3 * i + 3].copy()
        wrist[:, 2] -= (-1) ** i * curves["swing"][:, 0] * np.cos(phase)
        _place_arm(world, side, turned, wrist, offsets, curves["elbows"][:, i], curves["hands"][:, i])

    local = np.empty_like(world)
    for joint, parent in enumerate(skeleton.PARENTS):
        local[:, joint] = np.swapaxes(R_root if parent < 0 else world[:, parent], -1, -2) @ world[:, joint]
    clip = MotionClip(
        fps=FPS,
        root_rotation=R_root.astype(np.float32),
        root_position_m=root_m.astype(np.float32),
        joint_rotations=local.astype(np.float32),
        offsets_m=offsets.astype(np.float32),
    )
    root_m[:, 1] -= sole_heights(clip)
    root_m[:, [0, 2]] -= root_m[:, [0, 2]].mean(axis=0)
    return dataclasses.replace(clip, root_position_m=root_m.astype(np.float32))


def _place_leg(world, side, R_world_heading, ankle_m, offsets, toes_down) -> None:
    """Fills the rotations of one leg whose ankle is at `ankle_m` (F, 3) from the hip, in heading axes."""
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
    """Fills the rotations of one arm; `wrist` (F, 3) outward, up, forward of the shoulder in arm lengths."""
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
    """Directions (F, 3) of two bones whose end is at `target_m`, as far as it can be reached, and of the bend.

    The joint between them lies toward `pole`.
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
