"""Draws a streamed sequence as a video: the views with both skeletons, beside the body in space, which turns slowly."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from epfv2_jax.core import checks
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import panels
from epfv2_jax.viz.drawing import SUPERSAMPLING
from epfv2_jax.viz.stage import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamedFrame:
    """One frame of a stream and how long its pose took. Without truth: no valid joint and err_cm NaN."""

    example: FrameExample
    latency_ms: float


def draw_frames(
    frames: Sequence[StreamedFrame],
    skeleton: Skeleton,
    layout: RigLayout,
    *,
    title: str,
    runtime: str,
    frame_rate: float,
) -> Iterator[Image.Image]:
    """Yields one RGB picture of `drawing.SIZE_PX` for each frame.

    Args:
      frames: of one sequence, in order.
      skeleton: of the joints; says which are connected.
      layout: of the cameras; names the views.
      title: the heading, such as the name of the sequence.
      runtime: what computed the poses, written beside their latency.
      frame_rate: frames a second of the video, which sets how fast the body turns.

    Raises:
      ValueError: there are no frames.
    """
    checks.not_empty("frames of a video", frames, "the sequence or the part of it that was asked for is empty")
    examples = [frame.example for frame in frames]
    stage = Stage(examples, skeleton, frame_rate)
    background = panels.draw_background(examples[0], title, runtime)
    err_cm = np.array([example.err_cm for example in examples])
    latency_ms = np.array([frame.latency_ms for frame in frames])
    for i, example in enumerate(examples):
        canvas = background.copy()
        panels.draw_views(canvas, example, skeleton, layout)
        stage.draw(canvas, i)
        panels.draw_tiles(canvas, example.frame, i, err_cm, latency_ms)
        yield canvas.reduce(SUPERSAMPLING)
