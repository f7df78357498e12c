"""Loads motion capture files (ASF/AMC, BVH) as clips on the skeleton of EgoBody3M."""

import dataclasses
import pathlib

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data.mocap import articulated, asf_amc, bvh, figure
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

_LEG_RANGE_M = (0.6, 1.15)  # thigh and shin of anybody from a ten-year-old to the tallest


def load_clip(path: str | pathlib.Path, *, fps: float | None = None, bvh_unit_m: float | None = None) -> MotionClip:
    """Returns the motion of an AMC or BVH file resampled to 30 frames a second, its lowest foot joint at y = 0.

    Args:
      path: of the file. The skeleton of an AMC file is found by the subject's number: `01_05.amc` needs `01.asf`.
      fps: frame rate of an AMC file, which does not state it. A BVH file states its own.
      bvh_unit_m: unit of length of BVH files, which do not store it; by default the one of `BVH_UNITS_M` that gives
        the legs a human length.

    Raises:
      ValueError: a file is missing, malformed or of unknown type, its figure lacks a body part, or it is an AMC file
        and `fps` is None; the message says what to do.
    """
    path = pathlib.Path(path)
    checks.one_of((".amc", ".bvh"), **{f"{path}: type of motion file": path.suffix.lower()})
    if path.suffix.lower() == ".amc":
        subject = path.stem.partition("_")[0]
        asf = path.with_name(f"{subject}.asf")
        files.check_file(asf, f"put the subject's ASF beside {path}")
        if fps is None:
            raise ValueError(
                f"{path}: AMC files do not state their frame rate; set motion_fps (fps of load_clip) to it: 120 for "
                "CMU's originals, less for thinned copies"
            )
        motion = asf_amc.read_amc(path, asf_amc.read_asf(asf), fps)
    else:
        motion = _without_reference_pose(_in_metres(bvh.read_bvh(path), bvh_unit_m))
    return retarget(articulated.resampled(motion, FPS))


def _in_metres(motion: ArticulatedMotion, unit_m: float | None) -> ArticulatedMotion:
    """Returns the motion with lengths in metres, given its unit or by the length of the legs."""
    if unit_m is None:
        leg = figure.leg_length(motion, figure.find_body(motion))
        fitting = [unit for unit in BVH_UNITS_M.values() if _LEG_RANGE_M[0] <= leg * unit <= _LEG_RANGE_M[1]]
        if len(fitting) != 1:
            raise ValueError(
                f"{motion.source}: the legs are {leg:.4g} units long, a human length in none of "
                f"{', '.join(BVH_UNITS_M)}; give the unit (bvh_unit_m)"
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
