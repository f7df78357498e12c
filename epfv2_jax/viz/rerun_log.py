"""A streamed sequence as a recording for the Rerun viewer, to be looked at from any side and at any frame.

Rerun knows pinhole cameras only, so the skeletons over the images are projected here, through the real lenses.
"""

import importlib.util
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import ImageColor

from epfv2_jax.data.rig import VIEW_NAMES
from epfv2_jax.geometry import rotations
from epfv2_jax.metrics.pose import ellipsoid_radius
from epfv2_jax.viz import overlays
from epfv2_jax.viz.video import StreamedFrame

_LEVEL = 0.5  # of the ellipsoids
_JPEG_QUALITY = 85


def check_path(path: str | os.PathLike) -> None:
    """Raises ValueError unless a recording can be written at `path`: its suffix, its folder, the `viz` extra."""
    path = pathlib.Path(path)
    if path.suffix != ".rrd":
        raise ValueError(f"{path}: a recording for Rerun is a file that ends in .rrd; name it so")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if importlib.util.find_spec("rerun") is None:
        raise ValueError(f"{path}: a recording needs the extra 'viz' (pip install 'epfv2_jax[viz]')")


def write(
    path: str | os.PathLike, frames: Sequence[StreamedFrame], *, title: str, degrees_of_freedom: float = 4.0
) -> None:
    """Writes the images, both skeletons in them and in the world, the ellipsoids, the latency and the error.

    Args:
      path: of the .rrd file.
      frames: of one sequence, in order.
      title: name of the recording.
      degrees_of_freedom: nu of the Student-t with which the uncertainty was trained.

    Raises:
      ValueError: see `check_path`.
    """
    check_path(path)
    import rerun as rr
    import rerun.blueprint as rrb

    V = frames[0].example.view_valid.shape[0]
    names = VIEW_NAMES if len(VIEW_NAMES) == V else tuple(f"view_{v}" for v in range(V))
    views = rrb.Grid(*(rrb.Spatial2DView(origin=f"views/{name}", name=name.replace("_", " ")) for name in names))
    curves = rrb.Horizontal(*(rrb.TimeSeriesView(origin=name, name=name) for name in ("error_cm", "latency_ms")))
    body = rrb.Vertical(rrb.Spatial3DView(origin="world", name="world"), curves, row_shares=(3, 1))
    recording = rr.RecordingStream("epfv2_jax", recording_id=title)
    recording.save(os.fspath(path), default_blueprint=rrb.Blueprint(rrb.Horizontal(views, body), collapse_panels=True))
    recording.log("world", rr.ViewCoordinates.RIGHT_HAND_Y_UP, static=True)
    for frame in frames:
        example = frame.example
        recording.set_time("frame", sequence=example.frame)
        for v, name in enumerate(names):
            if example.view_valid[v]:
                recording.log(f"views/{name}", rr.Image(example.images[v], "L").compress(jpeg_quality=_JPEG_QUALITY))
            else:
                recording.log(f"views/{name}", rr.Clear(recursive=False))
        for kind, joints, present, color in (
            ("truth", example.true_joints_headset_m, example.joint_valid, overlays.TRUTH_COLOR),
            (
                "prediction",
                example.joints_headset_m,
                np.isfinite(example.joints_headset_m).all(-1),
                overlays.PREDICTION_COLOR,
            ),
        ):
            rgb = ImageColor.getrgb(color)
            safe = np.where(present[:, None], joints, 0.0)
            shown = np.array([present[a] and present[b] for a, b in overlays.BONES])
            uv_px, visible = overlays.project_bones(example, safe)
            for v, name in enumerate(names):
                strips = [
                    # The viewer puts the corner of the first pixel at the origin.
                    uv_px[v, b, visible[v, b]] + 0.5
                    for b in np.flatnonzero(shown)
                    if visible[v, b].sum() > 1
                ]
                recording.log(f"views/{name}/{kind}", rr.LineStrips2D(strips, colors=[rgb]))
            T = example.T_world_headset.astype(np.float64)
            world = safe @ T[:3, :3].T + T[:3, 3]
            strips = [world[[a, b]] for (a, b), s in zip(overlays.BONES, shown, strict=True) if s]
            recording.log(f"world/{kind}", rr.LineStrips3D(strips, radii=0.008, colors=[rgb]))
            if kind == "prediction" and example.cholesky_m is not None:
                axes, half_sizes = _principal_axes(T[:3, :3] @ example.cholesky_m[present])
                radius = ellipsoid_radius(_LEVEL, degrees_of_freedom)
                wxyz = np.asarray(rotations.matrix_to_quaternion(axes.astype(np.float32)))
                recording.log(
                    "world/ellipsoids",
                    rr.Ellipsoids3D(
                        centers=world[present],
                        half_sizes=radius * half_sizes,
                        quaternions=wxyz[:, [1, 2, 3, 0]],
                        colors=[rgb],
                        line_radii=0.0015,
                    ),
                )
        recording.log("latency_ms", rr.Scalars(frame.latency_ms))
        if np.isfinite(example.err_cm):
            recording.log("error_cm", rr.Scalars(example.err_cm))
    recording.disconnect()


def _principal_axes(cholesky: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (N, 3, 3) whose columns are the axes of the ellipsoids L L^T, and their half-lengths (N, 3)."""
    axes, size, _ = np.linalg.svd(cholesky)
    axes[..., 2] *= np.sign(np.linalg.det(axes))[:, None]
    return axes, size
