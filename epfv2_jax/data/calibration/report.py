"""A table of the fits of a sequence."""

from collections.abc import Sequence

import numpy as np

from epfv2_jax.data.calibration.fit import CameraFit
from epfv2_jax.geometry.layout import RigLayout


def report(fits: Sequence[CameraFit], layout: RigLayout) -> str:
    """Returns a short table of the fits of all views, one line a camera."""
    lines = []
    for name, fit in zip(layout.view_names, fits, strict=True):
        low, high = np.rad2deg(fit.angle_range_rad)
        lines.append(
            f"{name:12s} rms {fit.rms_px:.2e} px, held out {fit.held_out_rms_px:.2e} px, {fit.num_points} pairs "
            f"at {low:.0f}-{high:.0f} deg: {fit.verdict}"
        )
    return "\n".join(lines)
