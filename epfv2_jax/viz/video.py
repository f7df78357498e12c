"""A streamed sequence as a video: the views with both skeletons beside the body in space, which turns slowly.

Drawn with Pillow alone, at twice the size and then reduced: a matplotlib figure takes several times as long.
"""

import dataclasses
import importlib.util
import math
import os
import pathlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from epfv2_jax.data.rig import VIEW_NAMES
from epfv2_jax.evaluation.evaluate import FrameExample
from epfv2_jax.geometry import skeleton
from epfv2_jax.metrics.pose import ellipsoid_radius
from epfv2_jax.viz import overlays, pose3d

#: Width and height of the pictures that are drawn; both even, as the usual MP4 encoding needs it.
SIZE_PX = (1280, 720)
#: A GIF holds every pixel of a picture with little compression, so it is smaller.
GIF_SIZE_PX = (800, 450)
_SUPERSAMPLING = 2
_BACKGROUND, _PANEL, _LINE = "#12161b", "#1a2027", "#333d48"
_INK, _MUTED, _OUTLINE, _SHADOW = "#e9eef3", "#93a0ae", "#0c0f12", "#0b0e11"

# Boxes (left, top, right, bottom) in the units of `SIZE_PX`.
_VIEWS_BOX = (24, 24, 696, 696)
_BODY_BOX = (712, 24, 1256, 590)
_TILES_TOP, _BOTTOM = 602, 696
_GAP = 8
_LEVEL = 0.5  # of the ellipsoids
_ELEVATION_DEG, _START_DEG = 14.0, 30.0
_DEGREES_PER_SECOND = 18.0
_FLOOR_RADIUS_M = 0.9
_CALM_S = 0.3  # the camera follows the mean position of so long before and after
_MAX_M = np.array([1.5, 2.5])  # what is farther, such as an ellipsoid of an untrained model, may be cut off
_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 48, endpoint=False)) for f in (np.cos, np.sin)])
# Joints that coincide with their parent: their ellipsoid would be drawn twice.
_HAS_ELLIPSOID = np.any(skeleton.REST_OFFSETS_M, axis=1)
_ON_FLOOR, _DOWN = np.array([1.0, 0.0, 1.0]), np.array([1.0, -1.0])
_LEFT_TO_RIGHT = {4: (1, 2, 0, 3)}  # front cameras above the side cameras, as the wearer has them


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamedFrame:
    """One frame of a stream and how long its pose took. Without truth: no valid joint and err_cm NaN."""

    example: FrameExample
    latency_ms: float


def draw_frames(
    frames: Sequence[StreamedFrame], *, title: str, runtime: str, frame_rate: float, degrees_of_freedom: float = 4.0
) -> Iterator[Image.Image]:
    """Yields one RGB picture of `SIZE_PX` for each frame.

    The camera of the 3D view keeps its distance: it is chosen so that the body and its ellipsoids stay inside the
    picture in all frames and from all sides.

    Args:
      frames: of one sequence, in order.
      title: the heading, such as the name of the sequence.
      runtime: what computed the poses, written beside their latency.
      frame_rate: frames a second of the video, which sets how fast the body turns.
      degrees_of_freedom: nu of the Student-t with which the uncertainty was trained.

    Raises:
      ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("a video needs at least one frame; the sequence or the part of it that was asked for is empty")
    radius = ellipsoid_radius(_LEVEL, degrees_of_freedom)
    stage = _Stage([frame.example for frame in frames], radius, frame_rate)
    background = _draw_background(frames[0].example, title, runtime)
    for i, frame in enumerate(frames):
        canvas = background.copy()
        _draw_views(canvas, frame.example)
        stage.draw(canvas, i)
        _draw_tiles(canvas, frames, i)
        yield canvas.reduce(_SUPERSAMPLING)


class VideoWriter(Protocol):
    """Takes pictures of `SIZE_PX`; the file is complete after `close`."""

    def add(self, picture: Image.Image) -> None: ...

    def close(self) -> None: ...


class GifWriter:
    """Writes an animated GIF of `GIF_SIZE_PX` that repeats for ever."""

    def __init__(self, path: str | os.PathLike, frame_rate: float):
        self._path = path
        # GIF counts in hundredths of a second, and browsers slow down what is faster than two of them.
        self._duration_ms = 10 * max(2, round(100 / frame_rate))
        self._pictures: list[Image.Image] = []
        self._palette: Image.Image | None = None

    def add(self, picture: Image.Image) -> None:
        small = picture.resize(GIF_SIZE_PX, Image.Resampling.HAMMING)
        # One palette for all pictures: colours that change from one to the next flicker.
        if self._palette is None:
            colors = small.quantize(160, Image.Quantize.MEDIANCUT).getpalette()[: 3 * 160]
            self._palette = Image.new("P", (1, 1))
            self._palette.putpalette([*colors, *(grey for grey in np.linspace(4, 250, 96).astype(int) for _ in "rgb")])
        self._pictures.append(small.quantize(palette=self._palette, dither=Image.Dither.NONE))

    def close(self) -> None:
        first, *others = self._pictures
        first.save(
            self._path,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=self._duration_ms,
            loop=0,
        )


class Mp4Writer:
    """Writes H.264 in an MP4 of `SIZE_PX` with the ffmpeg that imageio-ffmpeg brings along."""

    def __init__(self, path: str | os.PathLike, frame_rate: float):
        import imageio_ffmpeg

        width, height = SIZE_PX
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{frame_rate:g}", "-i", "-"]
        coding = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-preset", "fast", "-movflags", "+faststart"]
        self._encoder = subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, *coding, os.fspath(path)],
            stdin=subprocess.PIPE,
        )

    def add(self, picture: Image.Image) -> None:
        self._encoder.stdin.write(picture.tobytes())

    def close(self) -> None:
        self._encoder.stdin.close()
        if self._encoder.wait():
            raise RuntimeError(f"ffmpeg ended with status {self._encoder.returncode}; its message is above")


WRITERS: dict[str, type[VideoWriter]] = {".gif": GifWriter, ".mp4": Mp4Writer}


def can_write_mp4() -> bool:
    """Returns whether the `video` extra is installed."""
    return importlib.util.find_spec("imageio_ffmpeg") is not None


def check_path(path: str | os.PathLike) -> None:
    """Raises ValueError unless a video can be written at `path`: its suffix, its folder, the `video` extra for MP4."""
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"{path}: a video is written as {' or '.join(WRITERS)}; name a file that ends so")
    if suffix == ".mp4" and not can_write_mp4():
        raise ValueError(f"{path}: MP4 needs the extra 'video' (pip install 'epfv2_jax[video]'); or name a .gif")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")


def open_writer(path: str | os.PathLike, frame_rate: float) -> VideoWriter:
    """Returns the writer for the suffix of `path`.

    Raises:
      ValueError: see `check_path`.
    """
    check_path(path)
    return WRITERS[pathlib.Path(path).suffix.lower()](path, frame_rate)


@dataclasses.dataclass(frozen=True)
class _Shot:
    """One frame as the camera sees it: (n, 2) points right and up of the middle of the body, metres."""

    basis: np.ndarray  # (2, 3) right and up in the world
    center_m: np.ndarray  # (3,) in the world, on the floor
    joints: np.ndarray  # (J, 2)
    present: np.ndarray  # (J,) bool
    shadow: np.ndarray  # (J, 2) of the joints, on the floor
    truth: np.ndarray  # (J, 2)
    rings: np.ndarray  # (ellipsoids, points, 2) their silhouettes


class _Stage:
    """The body in the world above a floor, seen from a camera that follows and turns around it."""

    def __init__(self, examples: Sequence[FrameExample], radius: float, frame_rate: float):
        bodies = [_to_world(e, e.joints_headset_m) for e in examples]
        middles = [
            np.mean(body[present], axis=0) if (present := np.isfinite(body).all(-1)).any() else e.T_world_headset[:3, 3]
            for body, e in zip(bodies, examples, strict=True)
        ]
        centers = _smooth(np.stack(middles) * _ON_FLOOR, round(_CALM_S * frame_rate))
        first = examples[0].T_world_headset
        heading_deg = np.rad2deg(np.arctan2(first[0, 2], first[2, 2]))
        self._examples = examples
        self._shots = [
            _shoot(e, body, center, heading_deg + _START_DEG + _DEGREES_PER_SECOND * i / frame_rate, radius)
            for i, (e, body, center) in enumerate(zip(examples, bodies, centers, strict=True))
        ]
        self._fit()

    def _fit(self) -> None:
        """Chooses scale and position so that everything is inside the picture in all frames."""
        seen = [_FLOOR_RADIUS_M * np.array([[-1.0, -0.25], [1.0, 0.0]])]
        for e, shot in zip(self._examples, self._shots, strict=True):
            seen += [
                shot.joints[shot.present],
                shot.shadow[shot.present],
                shot.truth[e.joint_valid],
                shot.rings.reshape(-1, 2),
            ]
        points = np.concatenate(seen)
        low, high = np.maximum(points.min(0), -_MAX_M), np.minimum(points.max(0), _MAX_M)
        left, top, right, bottom = (_SUPERSAMPLING * x for x in _BODY_BOX)
        heading, legend, margin = (_SUPERSAMPLING * x for x in (54, 46, 16))
        box = np.array([right - left - 2 * margin, bottom - top - heading - legend])
        self._scale = (box / (high - low)).min()
        middle = np.array([left + right, top + heading + bottom - legend]) / 2
        self._origin = middle - self._scale * _DOWN * (low + high) / 2

    def draw(self, canvas: Image.Image, index: int) -> None:
        example, shot = self._examples[index], self._shots[index]
        draw = ImageDraw.Draw(canvas, "RGBA")  # colours with an alpha blend with what is there
        unit = _SUPERSAMPLING

        def pixels(points):
            return self._origin + self._scale * _DOWN * points

        self._draw_floor(draw, shot, pixels)
        _draw_bones(draw, pixels(shot.shadow), shot.present, _SHADOW, 5.0 * unit, 0.0)
        rgb = ImageColor.getrgb(overlays.PREDICTION_COLOR)
        for ring in pixels(shot.rings):
            draw.polygon([tuple(p) for p in ring], fill=(*rgb, 30), outline=(*rgb, 90), width=unit)
        _draw_bones(draw, pixels(shot.truth), example.joint_valid, overlays.TRUTH_COLOR, 5.5 * unit, 1.0 * unit)
        _draw_bones(draw, pixels(shot.joints), shot.present, overlays.PREDICTION_COLOR, 3.4 * unit, 0.8 * unit)

    def _draw_floor(self, draw, shot: _Shot, pixels) -> None:
        """A round piece of the world's grid below the body, fading towards its rim."""
        cell, R, center = pose3d.GRID_M, _FLOOR_RADIUS_M, shot.center_m
        line, panel = (np.array(ImageColor.getrgb(color)) for color in (_LINE, _PANEL))
        for along, across in ((0, 2), (2, 0)):
            first = math.ceil((center[across] - R) / cell)
            for k in range(first, math.floor((center[across] + R) / cell) + 1):
                offset = k * cell - center[across]
                half = math.sqrt(max(R**2 - offset**2, 0.0))
                stops = np.linspace(-half, half, 15)
                points = np.zeros((len(stops), 3))
                points[:, across], points[:, along] = k * cell, center[along] + stops
                uv = pixels((points - center) @ shot.basis.T)
                middle = (stops[1:] + stops[:-1]) / 2
                shown = np.clip(1.3 * (1 - (middle**2 + offset**2) / R**2), 0.0, 1.0)
                for a, b, share in zip(uv[:-1], uv[1:], shown, strict=True):
                    color = tuple(int(c) for c in panel + share * (line - panel))
                    draw.line([*a, *b], fill=color, width=_SUPERSAMPLING)


def _draw_background(example: FrameExample, title: str, runtime: str) -> Image.Image:
    """What does not change from frame to frame."""
    canvas = Image.new("RGB", tuple(_SUPERSAMPLING * n for n in SIZE_PX), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for box in (_BODY_BOX, *_tile_boxes()):
        draw.rounded_rectangle([_SUPERSAMPLING * x for x in box], 8 * _SUPERSAMPLING, fill=_PANEL)
    left, top, right, bottom = _BODY_BOX
    while title and _font(22).getlength(title) > _SUPERSAMPLING * (right - left - 170):
        title = title[:-2].rstrip("…") + "…"
    _text(draw, (left + 18, top + 27), title, 22, _INK)
    has_truth = bool(example.joint_valid.any())
    x = right - 16
    for name, color in (("truth", overlays.TRUTH_COLOR), ("prediction", overlays.PREDICTION_COLOR))[not has_truth :]:
        x -= _font(18).getlength(name) / _SUPERSAMPLING
        _text(draw, (x, bottom - 18), name, 18, _INK)
        x -= 16
        disc = [_SUPERSAMPLING * (c + r) for r in (-5, 5) for c in (x + 4, bottom - 18)]
        draw.ellipse(disc, fill=color)
        x -= 18
    note = "50 % ellipsoids" if example.cholesky_m is not None else ""
    _text(draw, (left + 18, bottom - 18), note, 18, _MUTED)
    for box, heading in zip(_tile_boxes(), ("mean joint error", f"latency, {runtime}"), strict=True):
        _text(draw, (box[0] + 18, box[1] + 22), heading, 18, _MUTED)
    return canvas


def _draw_views(canvas: Image.Image, example: FrameExample) -> None:
    V, H, W = example.images.shape[:3]
    columns = math.ceil(math.sqrt(V))
    rows = math.ceil(V / columns)
    left, top, right, bottom = _VIEWS_BOX
    cell = (right - left - (columns - 1) * _GAP) / columns, (bottom - top - (rows - 1) * _GAP) / rows
    scale = min(cell[0] / W, cell[1] / H)
    size = round(_SUPERSAMPLING * W * scale), round(_SUPERSAMPLING * H * scale)
    skeletons = []
    for joints, present, color, width in (
        (example.true_joints_headset_m, example.joint_valid, overlays.TRUTH_COLOR, 5.5),
        (example.joints_headset_m, np.isfinite(example.joints_headset_m).all(-1), overlays.PREDICTION_COLOR, 3.0),
    ):
        if present.any():
            uv_px, visible = overlays.project_bones(example, np.where(present[:, None], joints, 0.0))
            shown = np.array([present[a] and present[b] for a, b in overlays.BONES])
            skeletons.append((uv_px, visible & shown[None, :, None], color, width))
    for place, v in enumerate(_LEFT_TO_RIGHT[V] if V in _LEFT_TO_RIGHT else range(V)):
        name = VIEW_NAMES[v].replace("_", " ") if len(VIEW_NAMES) == V else f"view {v}"
        if example.view_valid[v]:
            image = example.images[v]
            if image.dtype != np.uint8:
                image = np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
            picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).convert("RGB")
        else:
            picture, name = Image.new("RGB", size, _PANEL), f"{name}: no image"
        draw = ImageDraw.Draw(picture, "RGBA")
        pixel = np.array(size) / (W, H)
        for uv_px, visible, color, width in skeletons:
            _draw_curves(draw, (uv_px[v] + 0.5) * pixel, visible[v], color, width * _SUPERSAMPLING)
        length = _font(17).getlength(name)
        tag = [6 * _SUPERSAMPLING, 6 * _SUPERSAMPLING, 22 * _SUPERSAMPLING + length, 30 * _SUPERSAMPLING]
        draw.rounded_rectangle(tag, 5 * _SUPERSAMPLING, fill=(12, 15, 18, 190))
        _text(draw, (14, 18), name, 17, _INK)
        column, row = place % columns, place // columns
        x, y = (left + column * (cell[0] + _GAP), top + row * (cell[1] + _GAP))
        canvas.paste(picture, (round(_SUPERSAMPLING * x), round(_SUPERSAMPLING * y)))


def _draw_tiles(canvas: Image.Image, frames: Sequence[StreamedFrame], index: int) -> None:
    """The frame's number, its error and its latency, each as a number and as a curve up to this frame."""
    draw = ImageDraw.Draw(canvas)
    number = f"frame {frames[index].example.frame}"
    width = _font(18).getlength(number) / _SUPERSAMPLING
    _text(draw, (_BODY_BOX[2] - 18 - width, _BODY_BOX[1] + 27), number, 18, _MUTED)
    err_cm = np.array([f.example.err_cm for f in frames])
    latency_ms = np.array([f.latency_ms for f in frames])
    for box, values, unit, color in zip(
        _tile_boxes(), (err_cm, latency_ms), ("cm", "ms"), (overlays.PREDICTION_COLOR, _MUTED), strict=True
    ):
        value = values[index]
        text = f"{value:.1f} {unit}" if math.isfinite(value) else "truth unknown"
        _text(draw, (box[0] + 18, box[3] - 32), text, 34 if math.isfinite(value) else 20, _INK)
        _draw_curve(draw, (box[0] + 152, box[1] + 42, box[2] - 18, box[3] - 16), values, index, color)


def _draw_curve(draw, box, values: np.ndarray, index: int, color: str) -> None:
    """The values so far from left to right, zero at the bottom."""
    known = np.isfinite(values)
    if not known.any():
        return
    left, top, right, bottom = (_SUPERSAMPLING * x for x in box)
    draw.line([left, bottom, right, bottom], fill=_LINE, width=_SUPERSAMPLING)
    most = max(np.percentile(values[known], 98), 1e-9)  # one slow frame must not flatten the others
    x = left + (right - left) * np.arange(len(values)) / max(len(values) - 1, 1)
    y = bottom - (bottom - top) * np.clip(np.where(known, values, 0.0) / most, 0.0, 1.0)
    line = [(a, b) for a, b, k in zip(x[: index + 1], y, known, strict=False) if k]
    if len(line) > 1:
        draw.line(line, fill=color, width=2 * _SUPERSAMPLING, joint="curve")
    if line:
        r = 4 * _SUPERSAMPLING
        draw.ellipse([line[-1][0] - r, line[-1][1] - r, line[-1][0] + r, line[-1][1] + r], fill=color)


def _draw_bones(draw, points, valid, color: str, width: float, outline: float) -> None:
    bones = [(points[a], points[b]) for a, b in overlays.BONES if valid[a] and valid[b]]
    for extra, fill in ((outline, _OUTLINE), (0.0, color))[not outline :]:
        for a, b in bones:
            draw.line([*a, *b], fill=fill, width=max(1, round(width + 2 * extra)))
        for x, y in points[valid]:
            r = 0.75 * width + extra
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _draw_curves(draw, points, visible, color: str, width: float) -> None:
    """Bones as a camera sees them, bent by its lens: points (bones, n, 2), visible (bones, n)."""
    runs, ends = [], []
    for line, seen in zip(points, visible, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]]).astype(np.int8)))
        runs += [line[a:b].ravel().tolist() for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]
        ends += [line[i] for i in (0, -1) if seen[i]]
    for extra, fill in ((_SUPERSAMPLING, _OUTLINE), (0, color)):
        for run in runs:
            draw.line(run, fill=fill, width=round(width + 2 * extra))
        for x, y in ends:
            r = 0.75 * width + extra
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _shoot(
    example: FrameExample, body_world_m: np.ndarray, center_m: np.ndarray, azimuth_deg: float, radius: float
) -> _Shot:
    basis = pose3d.view_axes(azimuth_deg, _ELEVATION_DEG)[:2]
    present = np.isfinite(body_world_m).all(-1)

    def seen(points_world_m):
        return (points_world_m - center_m) @ basis.T

    body = np.where(present[:, None], body_world_m, center_m)
    joints = seen(body)
    rings = []
    if example.cholesky_m is not None:
        projection = basis @ example.T_world_headset[:3, :3].astype(np.float64)
        for j in np.flatnonzero(_HAS_ELLIPSOID & present & np.isfinite(example.cholesky_m).all((-1, -2))):
            # The image of the unit ball is that of the unit circle under what is left without the rotation V.
            U, size, _ = np.linalg.svd(projection @ example.cholesky_m[j], full_matrices=False)
            rings.append(joints[j] + radius * ((U * size) @ _CIRCLE).T)
    return _Shot(
        basis=basis,
        center_m=center_m,
        joints=joints,
        present=present,
        shadow=seen(body * _ON_FLOOR),
        truth=seen(_to_world(example, example.true_joints_headset_m)),
        rings=np.reshape(rings, (-1, _CIRCLE.shape[1], 2)),
    )


def _to_world(example: FrameExample, joints_headset_m: np.ndarray) -> np.ndarray:
    T = example.T_world_headset.astype(np.float64)
    return joints_headset_m @ T[:3, :3].T + T[:3, 3]


def _smooth(positions: np.ndarray, frames: int) -> np.ndarray:
    """A moving average (n, 3) over at most `frames` to each side, fewer near the ends, so that the camera is calm."""
    n = len(positions)
    reach = [min(i, n - 1 - i, frames) for i in range(n)]
    return np.stack([positions[i - r : i + r + 1].mean(0) for i, r in enumerate(reach)])


def _tile_boxes() -> tuple[tuple[int, int, int, int], ...]:
    left, _, right, _ = _BODY_BOX
    middle = (left + right) // 2
    return (left, _TILES_TOP, middle - 6, _BOTTOM), (middle + 6, _TILES_TOP, right, _BOTTOM)


def _text(draw, position, text: str, size: int, color: str) -> None:
    """Writes text with its left edge and its vertical middle at `position`, in the units of `SIZE_PX`."""
    draw.text([_SUPERSAMPLING * x for x in position], text, font=_font(size), fill=color, anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont:
    key = size * _SUPERSAMPLING
    if key not in _FONTS:
        _FONTS[key] = ImageFont.load_default(key)
    return _FONTS[key]


_FONTS: dict[int, ImageFont.FreeTypeFont] = {}
