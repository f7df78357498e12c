"""Writes a streamed sequence as a recording for the Rerun viewer, which shows it from any side and at any frame.

Rerun knows pinhole cameras only, so the skeletons over the images are projected here, through the real lenses.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ImageColor

from epfv2_jax.core import checks, files
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry import rotations
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import ellipsoids, poses
from epfv2_jax.viz.video import StreamedFrame

_JPEG_QUALITY = 85


def check_path(path: str | os.PathLike) -> None:
    """Checks that a recording can be written at `path`.

    Raises:
      ValueError: it has another suffix than .rrd, its folder is missing, or the extra `viz`.
    """
    path = files.on_disk(path, "write the recording there")
    checks.one_of([".rrd"], **{f"{path}: suffix of a recording for Rerun": path.suffix})
    files.check_folder(path.parent, f"make it first, for {path.name}")
    checks.extra_installed("rerun", "viz", f"{path}: a recording")


def write(
    path: str | os.PathLike, frames: Sequence[StreamedFrame], skeleton: Skeleton, layout: RigLayout, *, title: str
) -> None:
    """Writes the images, both skeletons in them and in the world, the ellipsoids, the latency and the error.

    Args:
      path: of the .rrd file.
      frames: of one sequence, in order.
      skeleton: of the joints; says which are connected.
      layout: of the cameras; names the views.
      title: name of the recording.

    Raises:
      ValueError: see `check_path`.
    """
    check_path(path)
    import rerun as rr

    recording = rr.RecordingStream("epfv2_jax", recording_id=title)
    recording.save(os.fspath(path), default_blueprint=_blueprint(layout))
    recording.log("world", rr.ViewCoordinates.RIGHT_HAND_Y_UP, static=True)
    for frame in frames:
        example = frame.example
        recording.set_time("frame", sequence=example.frame)
        for v, name in enumerate(layout.view_names):
            if example.view_valid[v]:
                recording.log(f"views/{name}", rr.Image(example.images[v], "L").compress(jpeg_quality=_JPEG_QUALITY))
            else:
                recording.log(f"views/{name}", rr.Clear(recursive=False))
        for pose in (poses.truth(example), poses.prediction(example)):
            _log_pose(recording, example, pose, skeleton, layout)
        if example.distribution is not None:
            _log_ellipsoids(recording, example)
        recording.log("latency_ms", rr.Scalars(frame.latency_ms))
        if np.isfinite(example.err_cm):
            recording.log("error_cm", rr.Scalars(example.err_cm))
    recording.disconnect()


def _blueprint(layout: RigLayout) -> Any:
    """Returns the arrangement of the viewer: views on the left, the world above the curves on the right."""
    import rerun.blueprint as rrb

    names = layout.view_names
    views = rrb.Grid(*(rrb.Spatial2DView(origin=f"views/{name}", name=name.replace("_", " ")) for name in names))
    curves = rrb.Horizontal(*(rrb.TimeSeriesView(origin=name, name=name) for name in ("error_cm", "latency_ms")))
    body = rrb.Vertical(rrb.Spatial3DView(origin="world", name="world"), curves, row_shares=(3, 1))
    return rrb.Blueprint(rrb.Horizontal(views, body), collapse_panels=True)


def _log_pose(
    recording: Any, example: FrameExample, pose: poses.DrawnPose, skeleton: Skeleton, layout: RigLayout
) -> None:
    """Logs the bones of a pose in every view and in the world."""
    import rerun as rr

    rgb = ImageColor.getrgb(pose.color)
    uv_px, visible = poses.project_bones(example, pose, skeleton)
    for v, name in enumerate(layout.view_names):
        # The viewer puts the corner of the first pixel at the origin.
        strips = [uv[seen] + 0.5 for uv, seen in zip(uv_px[v], visible[v], strict=True) if seen.sum() > 1]
        recording.log(f"views/{name}/{pose.name}", rr.LineStrips2D(strips, colors=[rgb]))
    world = poses.to_world(example, pose.joints_headset_m)
    strips = [world[[a, b]] for a, b in skeleton.bones if pose.present[a] and pose.present[b]]
    recording.log(f"world/{pose.name}", rr.LineStrips3D(strips, radii=0.008, colors=[rgb]))


def _log_ellipsoids(recording: Any, example: FrameExample) -> None:
    """Logs the ellipsoids of all predicted joints."""
    import rerun as rr

    prediction = poses.prediction(example)
    R_world_headset = example.T_world_headset[:3, :3].astype(np.float64)
    axes, half_sizes = ellipsoids.principal_axes(R_world_headset @ example.distribution.cholesky_m[prediction.present])
    wxyz = np.asarray(rotations.matrix_to_quaternion(axes.astype(np.float32)))
    recording.log(
        "world/ellipsoids",
        rr.Ellipsoids3D(
            centers=poses.to_world(example, prediction.joints_headset_m)[prediction.present],
            half_sizes=ellipsoids.radius(example.distribution) * half_sizes,
            quaternions=wxyz[:, [1, 2, 3, 0]],
            colors=[ImageColor.getrgb(prediction.color)],
            line_radii=0.0015,
        ),
    )
