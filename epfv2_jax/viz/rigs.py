"""The cameras of a headset as a table and as a chart."""

from typing import Any

import numpy as np

from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.structs import Rig
from epfv2_jax.viz import charts, page, plots

#: Of the columns of `rows`.
HEAD = ("view", "left, up, forward, cm", "looks left, down, deg", "focal length, px", "image, px", "lens to, deg")
_ARROW_CM = 4.0


def rows(rig: Rig, layout: RigLayout) -> list[tuple[str, ...]]:
    """Returns a row of texts for each view: its name, place, direction and lens."""
    places_cm, axes = _placed(rig)
    found = []
    for v, name in enumerate(layout.view_names):
        x, y, z = axes[v]
        yaw, pitch = np.rad2deg([np.arctan2(x, z), np.arctan2(-y, np.hypot(x, z))])
        focal = np.broadcast_to(np.asarray(rig.cameras.focal_px)[v], (2,))
        width, height = np.asarray(rig.cameras.size_px)[v]
        lens_deg = np.rad2deg(float(np.asarray(rig.cameras.max_angle_rad)[v]))
        place = ", ".join(f"{value:.1f}" for value in places_cm[v])
        direction = f"{round(yaw)}, {round(pitch)}"
        lens = f"{focal.mean():.1f}", f"{width:.0f}x{height:.0f}", f"{lens_deg:.0f}"
        found.append((name.replace("_", " "), place, direction, *lens))
    return found


def draw(rig: Rig, layout: RigLayout) -> Any:
    """Returns a matplotlib figure: the cameras and where they look, from above and from the wearer's left."""
    places_cm, axes_of = _placed(rig)
    figure = plots.figure(6.4, 3.4)
    left, up, forward = (0, "left, cm"), (1, "up, cm"), (2, "forward, cm")
    for i, (title, (a, xlabel), (b, ylabel)) in enumerate(
        (("from above", left, forward), ("from the wearer's left", forward, up))
    ):
        axes = figure.add_subplot(1, 2, i + 1)
        axes.plot([0], [0], "+", color=page.MUTED, markersize=12)
        points, tips = (x[:, [a, b]] for x in (places_cm, places_cm + _ARROW_CM * axes_of))
        for v, name in enumerate(layout.view_names):
            color = charts.COLORS[v % len(charts.COLORS)]
            axes.annotate("", tips[v], points[v], arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6})
            axes.plot(*points[v], "o", color=color, markersize=6, label=name.replace("_", " "))
        shown = np.concatenate([points, tips, [[0.0, 0.0]]])
        (x, y), half = (shown.min(0) + shown.max(0)) / 2, 0.6 * np.ptp(shown, axis=0).max() + 0.5
        # The wearer's left, and the front of a wearer who is seen from the left, are on the left.
        axes.set(xlim=(x + half, x - half), ylim=(y - half, y + half), aspect="equal")
        axes.set_title(title, fontsize=9, color=page.INK)
        axes.set_xlabel(xlabel, fontsize=8)
        axes.set_ylabel(ylabel, fontsize=8)
        axes.tick_params(labelsize=7)
        plots.plain(axes)
        if i == 0:
            axes.legend(fontsize=7, frameon=False, loc="best")
    figure.tight_layout()
    return figure


def _placed(rig: Rig) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place (V, 3) of each camera, cm, and its optical axis (V, 3), in headset axes."""
    T_headset_cam = np.linalg.inv(np.asarray(rig.T_cam_headset, np.float64))
    return 100 * T_headset_cam[:, :3, 3], T_headset_cam[:, :3, 2]
