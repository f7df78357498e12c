"""Loads motion capture files (ASF/AMC, BVH) as clips on the skeleton of EgoBody3M."""

import dataclasses
import pathlib

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.mocap import articulated, asf_amc, bvh, figure, sanity, standing
from epfv2_jax.data.mocap.articulated import ArticulatedMotion
from epfv2_jax.data.mocap.clip import FPS, MotionClip
from epfv2_jax.data.mocap.retarget import retarget

#: Units of length of BVH files, in metres; that of CMU is the unit of its ASF files, 1/0.45 inch.
BVH_UNITS_M: dict[str, float] = {
    "metre": 1.0,
    "CMU unit": 0.0254 / 0.45,
    "inch": 0.0254,
    "centimetre": 0.01,
    "millimetre": 0.001,
}

# Thigh and shin of anybody from a six-year-old to the tallest: not above the ratio of two units, so that one fits.
_LEG_RANGE_M = (0.53, 1.15)
_LONGEST_S = 3600.0


def load_clip(path: str | pathlib.Path, *, fps: float | None = None, bvh_unit_m: float | None = None) -> MotionClip:
    """Returns the motion of an AMC or BVH file resampled to 30 frames a second, its lowest foot joint at y = 0.

    A figure that stands along another axis than y is turned, see `standing.upright`.

    Args:
      path: of the file, with its suffix in any case. An AMC file needs its ASF beside it, see `asf_amc.find_asf`.
      fps: frame rate of an AMC file, which does not state it. A BVH file states its own.
      bvh_unit_m: unit of length of BVH files, which do not store it; by default the one of `BVH_UNITS_M` that gives
        the legs a human length.

    Raises:
      ValueError: a file is missing, malformed or of unknown type, its figure lacks a body part, the motion is not a
        person's (wrong units, axes or angles, see `sanity`), or it is an AMC file and `fps` is None; the message says
        what to do.
    """
    path = pathlib.Path(path)
    checks.one_of((".amc", ".bvh"), **{f"{path}: type of motion file": path.suffix.lower()})
    if path.suffix.lower() == ".amc":
        asf = asf_amc.find_asf(path)
        if fps is None:
            raise ValueError(
                f"{path}: AMC files do not state their frame rate; set motion_fps (fps of load_clip) to it: 120 for "
                "CMU's originals, less for thinned copies"
            )
        body = figure.body_of(asf_amc.read_amc(path, asf_amc.read_asf(asf), fps))
    else:
        body = _without_reference_pose(_in_metres(figure.body_of(bvh.read_bvh(path)), bvh_unit_m))
    checks.within(0.0, _LONGEST_S, **{f"{path}: seconds; cut the file into shorter clips": body.num_frames / body.fps})
    body = standing.upright(articulated.resampled(body, FPS))
    sanity.check(body)
    return retarget(body)


def _in_metres(motion: ArticulatedMotion, unit_m: float | None) -> ArticulatedMotion:
    """Returns the motion with lengths in metres, given its unit or by the length of the legs."""
    if unit_m is None:
        leg = figure.leg_length(motion)
        fitting = [unit for unit in BVH_UNITS_M.values() if _LEG_RANGE_M[0] <= leg * unit <= _LEG_RANGE_M[1]]
        if len(fitting) != 1:
            raise ValueError(
                f"{motion.source}: the legs are {leg:.4g} units long, a human length in none of "
                f"{', '.join(BVH_UNITS_M)}; write the file in one of these, or give the unit (bvh_unit_m)"
            )
        (unit_m,) = fitting
    return dataclasses.replace(
        motion,
        offsets_m=motion.offsets_m * unit_m,
        tips_m=motion.tips_m * unit_m,
        root_position_m=motion.root_position_m * unit_m,
    )


def _without_reference_pose(motion: ArticulatedMotion) -> ArticulatedMotion:
    """Returns the motion without a reference pose (usually a T-pose) in its first frame, as many BVH files have.

    The first frame is a reference pose if the step after it is more than five times any step of the next second.
    """
    num_steps = min(motion.num_frames, 2 + round(motion.fps)) - 1
    steps = np.linalg.norm(np.diff(motion.joint_rotations[: num_steps + 1], axis=0), axis=(-2, -1)).mean(-1)
    if num_steps < 2 or steps[0] <= 5.0 * steps[1:].max():
        return motion
    return dataclasses.replace(
        motion, root_position_m=motion.root_position_m[1:], joint_rotations=motion.joint_rotations[1:]
    )
