"""The body around the skeleton: a person's proportions and clothes, and the solids that follow the joints.

Limbs are round cones (the convex hull of two spheres); the trunk consists of ellipsoids. The wearer's head is left out,
since it is behind the cameras. All sizes are our choice.
"""

import dataclasses

import jax
import numpy as np
from flax import struct

from epfv2_jax.data.mocap.clip import MotionClip
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON

_REST = np.asarray(SKELETON.rest_offsets_m)
_JOINT = {name: i for i, name in enumerate(SKELETON.joint_names)}

#: Clothes and skin; a person has one grey value for each.
TONES: tuple[str, ...] = ("skin", "shirt", "sleeve", "forearm", "trousers", "shin", "shoes")

#: Round cones: start (joint, offset in its axes), end (joint, offset), radii at both ends, tone. In metres of the rest
#: pose; +x points outward, and `@` in a name stands for the side.
_CONES = (
    ("b_spine3", (0.05, 0.05, 0.055), "b_@_arm", (0.0, 0.0, 0.0), 0.062, 0.056, "shirt"),
    ("b_@_arm", (0.0, 0.0, 0.0), "b_@_forearm", (0.0, 0.0, 0.0), 0.052, 0.041, "sleeve"),
    ("b_@_forearm", (0.0, 0.0, 0.0), "b_@_wrist", (0.0, 0.0, 0.0), 0.041, 0.028, "forearm"),
    ("b_@_wrist", (0.015, 0.0, 0.0), "b_@_wrist", (0.085, -0.004, 0.016), 0.028, 0.026, "skin"),
    ("b_@_wrist", (0.015, 0.0, 0.0), "b_@_wrist", (0.085, -0.004, -0.016), 0.028, 0.024, "skin"),
    ("b_@_wrist", (0.085, -0.004, 0.014), "b_@_wrist", (0.168, -0.025, 0.010), 0.016, 0.009, "skin"),
    ("b_@_wrist", (0.085, -0.004, -0.014), "b_@_wrist", (0.155, -0.028, -0.012), 0.015, 0.009, "skin"),
    ("b_@_wrist", (0.020, 0.0, 0.020), "b_@_wrist", (0.085, -0.010, 0.062), 0.016, 0.010, "skin"),
    ("b_@_upleg", (0.012, 0.0, 0.0), "b_@_leg", (0.0, 0.0, 0.0), 0.092, 0.060, "trousers"),
    ("b_@_leg", (0.0, 0.0, 0.0), "b_@_foot_twist", (0.0, 0.0, 0.0), 0.058, 0.042, "shin"),
    ("b_@_subtalar", (0.0, 0.012, -0.025), "b_@_transversetarsal", (0.0, -0.008, 0.020), 0.037, 0.042, "shoes"),
    ("b_@_transversetarsal", (0.0, -0.012, 0.015), "b_@_transversetarsal", (0.0, -0.022, 0.075), 0.040, 0.028, "shoes"),
)
_NECK = ("b_neck0", (0.0, -0.03, -0.01), "b_head", (0.0, -0.01, -0.02), 0.056, 0.052, "skin")

#: Ellipsoids: joint, centre in its axes, semi-axes, tone; "root" is the hidden root.
_ELLIPSOIDS = (
    ("root", (0.0, 0.015, -0.010), (0.155, 0.115, 0.105), "trousers"),
    ("b_spine0", (0.0, 0.075, 0.022), (0.132, 0.150, 0.094), "shirt"),
    ("b_spine3", (0.0, -0.050, 0.038), (0.155, 0.165, 0.098), "shirt"),
    ("b_spine3", (0.0, -0.070, 0.088), (0.122, 0.075, 0.050), "shirt"),
)


class Solids(struct.PyTreeNode):
    """P round cones and E ellipsoids in the world, each with a grey value; leading axes (...)."""

    cone_start_m: jax.Array  # (..., P, 3)
    cone_end_m: jax.Array  # (..., P, 3)
    cone_radii_m: jax.Array  # (..., P, 2)
    cone_tone: jax.Array  # (..., P) in [0, 1]
    ellipsoid_centre_m: jax.Array  # (..., E, 3)
    ellipsoid_from_world: jax.Array  # (..., E, 3, 3) maps the ellipsoid to the unit sphere
    ellipsoid_tone: jax.Array  # (..., E)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Person:
    """The proportions and clothes of a person."""

    offsets_m: np.ndarray  # (J, 3) bones, as in `MotionClip`
    girth: np.ndarray  # (3,) thickness of the limbs, width and depth of the trunk, relative to the sizes above
    tones: dict[str, float]  # grey value in [0, 1] of each of `TONES`


def sample_person(rng: np.random.Generator, offsets_m: np.ndarray | None = None) -> Person:
    """Returns a random person, with random bones unless `offsets_m` (J, 3) gives them.

    Height varies by about 8 % (one standard deviation) and single bones by 4 %, left and right alike.
    """
    scales = rng.normal(1.0, 0.08) * rng.normal(1.0, 0.04, SKELETON.num_joints)
    scales = np.clip(0.5 * (scales + scales[list(SKELETON.mirror)]), 0.75, 1.25)
    if offsets_m is None:
        offsets_m = _REST * scales[:, None]
    skin, shirt, trousers, shoes = (rng.uniform(*span) for span in ((0.3, 0.8), (0.1, 0.95), (0.08, 0.7), (0.05, 0.9)))
    sleeves, shorts = rng.choice(["none", "short", "long"], p=[0.15, 0.45, 0.4]), rng.random() < 0.25
    return Person(
        offsets_m=np.asarray(offsets_m, np.float64),
        girth=np.clip(rng.normal([1.0, 1.0, 0.97], [0.09, 0.07, 0.1]), 0.78, 1.3),
        tones={
            "skin": skin,
            "shirt": shirt,
            "sleeve": skin if sleeves == "none" else shirt,
            "forearm": shirt if sleeves == "long" else skin,
            "trousers": trousers,
            "shin": skin if shorts else trousers,
            "shoes": shoes,
        },
    )


def solids(person: Person, clip: MotionClip) -> Solids:
    """Returns the solids of a person in each frame of the clip: leading axis F, numpy float32."""
    rotations, joints_m = clip.world_pose
    frames = {name: (rotations[:, j], joints_m[:, j]) for name, j in _JOINT.items()}
    frames["root"] = (clip.root_rotation, clip.root_position_m)
    size = np.linalg.norm(person.offsets_m, axis=-1).sum() / np.linalg.norm(_REST, axis=-1).sum()
    limb, width, depth = person.girth

    def at(joint: str, offset) -> np.ndarray:
        R_world_joint, position_m = frames[joint]
        return position_m + R_world_joint @ (size * np.asarray(offset))

    cones = [_NECK]
    for side, sign in (("l", 1.0), ("r", -1.0)):
        for start, start_offset, end, end_offset, *rest in _CONES:
            first, second = ((sign * x, y, z) for x, y, z in (start_offset, end_offset))
            cones.append((start.replace("@", side), first, end.replace("@", side), second, *rest))
    centres, maps = [], []
    for joint, centre, semi_axes, _ in _ELLIPSOIDS:
        semi_axes_m = size * np.asarray(semi_axes) * (width, 1.0, depth)
        centres.append(at(joint, centre))
        maps.append(np.swapaxes(frames[joint][0], -1, -2) / semi_axes_m[:, None])
    num_frames = clip.num_frames

    def constant(values) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.float32), (num_frames, *np.shape(values)))

    # Hands and feet scale with the bones; arms, legs and neck also with the person's girth.
    thick = [1.0 if tone == "shoes" or start.endswith("wrist") else limb for start, *_, tone in cones]
    return Solids(
        cone_start_m=np.stack([at(c[0], c[1]) for c in cones], axis=1).astype(np.float32),
        cone_end_m=np.stack([at(c[2], c[3]) for c in cones], axis=1).astype(np.float32),
        cone_radii_m=constant([[size * t * c[4], size * t * c[5]] for c, t in zip(cones, thick, strict=True)]),
        cone_tone=constant([person.tones[c[6]] for c in cones]),
        ellipsoid_centre_m=np.stack(centres, axis=1).astype(np.float32),
        ellipsoid_from_world=np.stack(maps, axis=1).astype(np.float32),
        ellipsoid_tone=constant([person.tones[e[3]] for e in _ELLIPSOIDS]),
    )
