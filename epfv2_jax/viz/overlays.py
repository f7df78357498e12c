"""Predicted and true skeleton drawn over the camera images."""

import numpy as np
from PIL import Image, ImageDraw

from epfv2_jax.evaluation.evaluate import FrameExample
from epfv2_jax.geometry import cameras, skeleton, transforms

#: Colours of the whole report, told apart with every common colour vision (Okabe and Ito): red-orange and sky blue.
PREDICTION_COLOR = "#FF6A13"
TRUTH_COLOR = "#4CC2FF"
_OUTLINE_COLOR = "#101418"

_HIPS = (skeleton.JOINT_NAMES.index("b_l_upleg"), skeleton.JOINT_NAMES.index("b_r_upleg"))
_SPINE = skeleton.JOINT_NAMES.index("b_spine0")
#: Pairs of joints to connect: the tree, and the hips and the spine around the hidden root.
BONES: tuple[tuple[int, int], ...] = (
    *((parent, j) for j, parent in enumerate(skeleton.PARENTS) if parent >= 0),
    (_HIPS[0], _HIPS[1]),
    (_HIPS[0], _SPINE),
    (_HIPS[1], _SPINE),
)
_POINTS_PER_BONE = 25  # a fisheye bends straight bones
_SUPERSAMPLING = 3


def project_bones(example: FrameExample, joints_headset_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (V, bones, points, 2) along each bone and whether each point is visible (V, bones, points).

    Visible: within the valid angle of the lens, in front of the camera and inside the image; occlusion is not known.

    Args:
      example: gives the rig.
      joints_headset_m: (J, 3).
    """
    start, end = (joints_headset_m[[bone[i] for bone in BONES]] for i in (0, 1))
    share = np.linspace(0.0, 1.0, _POINTS_PER_BONE)[None, :, None]
    points = (start[:, None] * (1 - share) + end[:, None] * share).reshape(-1, 3).astype(np.float32)
    V = example.view_valid.shape[0]
    points = np.broadcast_to(points[None], (V, *points.shape))
    uv_px, valid = cameras.project(example.rig.cameras, transforms.apply(example.rig.T_cam_headset, points))
    visible = valid & cameras.inside_image(example.rig.cameras, uv_px)
    shape = (V, len(BONES), _POINTS_PER_BONE)
    return np.asarray(uv_px).reshape(*shape, 2), np.asarray(visible).reshape(shape)


def draw_views(example: FrameExample, height_px: int = 384) -> list[np.ndarray]:
    """Returns one picture (height_px, w, 3) uint8 per view: the upright image with the true and the predicted skeleton.

    Images are enlarged or reduced to `height_px` before anything is drawn, so that skeletons are crisp on small
    images. The truth is the broader line, so that it shows on both sides of a prediction that hits it. Bones that lead
    to a joint without a true position are drawn for the prediction only. A view without an image is left dark.
    """
    skeletons = []
    for joints, color, line_width, present in (
        (example.true_joints_headset_m, TRUTH_COLOR, 5.0, example.joint_valid),
        (example.joints_headset_m, PREDICTION_COLOR, 2.6, np.isfinite(example.joints_headset_m).all(-1)),
    ):
        uv_px, visible = project_bones(example, np.where(present[:, None], joints, 0.0))
        shown = np.array([present[a] and present[b] for a, b in BONES])
        skeletons.append((uv_px, visible & shown[None, :, None], color, line_width))
    return [_draw_view(example, v, height_px, skeletons) for v in range(example.view_valid.shape[0])]


def _draw_view(example, v, height_px, skeletons) -> np.ndarray:
    H, W = example.images.shape[1:3]
    width_px = max(1, round(W * height_px / H))
    big = (width_px * _SUPERSAMPLING, height_px * _SUPERSAMPLING)
    if example.view_valid[v]:
        canvas = Image.fromarray(_to_uint8(example.images[v])).resize(big, Image.Resampling.BICUBIC).convert("RGB")
    else:
        canvas = Image.new("RGB", big, "#20242a")
    draw = ImageDraw.Draw(canvas)
    scale = np.array([big[0] / W, big[1] / H])
    unit = _SUPERSAMPLING * height_px / 384
    for uv_px, visible, color, line_width in skeletons:
        points = (uv_px[v] + 0.5) * scale[None, None]
        runs = [run for b in range(len(BONES)) for run in _runs(points[b], visible[v, b])]
        ends = [points[b, i] for b in range(len(BONES)) for i in (0, -1) if visible[v, b, i]]
        for extra, fill in ((2.0, _OUTLINE_COLOR), (0.0, color)):
            width, radius = line_width + extra, 0.6 * line_width + 1.4 + extra / 2
            for run in runs:
                draw.line([tuple(p) for p in run], fill=fill, width=round(width * unit), joint="curve")
            for x, y in ends:
                r = radius * unit
                draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    return np.asarray(canvas.resize((width_px, height_px), Image.Resampling.LANCZOS))


def _runs(points: np.ndarray, visible: np.ndarray) -> list[np.ndarray]:
    """The stretches of two or more neighbouring visible points."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], visible, [False]]).astype(np.int8)))
    return [points[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]


def _to_uint8(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    return np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
