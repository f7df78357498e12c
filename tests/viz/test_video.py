"""Videos: skeletons where cameras see them, a body that stays in the picture, files that hold what was drawn."""

import dataclasses
import importlib.util
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image, ImageColor

from epfv2_jax.evaluation import evaluate as evaluation
from epfv2_jax.geometry import cameras, layout, skeleton, transforms
from epfv2_jax.metrics import pose as metrics
from epfv2_jax.testing import fakes
from epfv2_jax.viz import drawing, ellipsoids, encoding, panels, poses, rerun_log, stage, video

SKELETON, LAYOUT = skeleton.EGOBODY3M, layout.EGOBODY3M


def make_frames(n=3, seed=0, uncertain=True):
    """Returns a walk of `n` frames with black images of 64x48 and predictions near the truth."""
    batch = fakes.fake_batch(B=1, T=n, seed=seed, image_hw=(64, 48))
    predictions = fakes.fake_predictions(batch, seed=seed)
    rig = jax.tree.map(lambda leaf: leaf[0], batch.frames.rig)
    return [
        video.StreamedFrame(
            latency_ms=1.0 + t,
            example=evaluation.FrameExample(
                clip_id=0,
                frame=t,
                err_cm=5.0,
                images=np.zeros((4, 64, 48), np.uint8),
                rig=rig,
                view_valid=np.ones(4, bool),
                T_world_headset=batch.frames.T_world_headset[0, t],
                true_joints_headset_m=batch.targets.joints_headset_m[0, t],
                joint_valid=np.ones(fakes.J, bool),
                joints_headset_m=predictions.joints_headset_m[0, t],
                distribution=jax.tree.map(lambda leaf, t=t: leaf[0, t], predictions.distribution)
                if uncertain
                else None,
            ),
        )
        for t in range(n)
    ]


def change(frames, **fields):
    return [dataclasses.replace(f, example=dataclasses.replace(f.example, **fields)) for f in frames]


def with_scale(frames, cholesky_m):
    return change(frames, distribution=frames[0].example.distribution.replace(cholesky_m=cholesky_m))


def draw(frames, layout=LAYOUT, **kwargs):
    kwargs = {"title": "walk", "runtime": "JAX", "frame_rate": 10.0, **kwargs}
    return [np.asarray(picture) for picture in video.draw_frames(frames, SKELETON, layout, **kwargs)]


def colored(picture, color, box=None):
    """Returns the pixels (y, x) of `box` whose colour is nearly `color`."""
    left, top, right, bottom = box or (0, 0, picture.shape[1], picture.shape[0])
    part = picture[top:bottom, left:right].astype(int)
    return np.argwhere(np.abs(part - ImageColor.getrgb(color)).max(-1) < 40) + np.array([top, left])


def test_every_visible_joint_is_marked_where_the_camera_sees_it():
    frames = make_frames(1)
    example = frames[0].example
    (picture,) = draw(frames)
    assert picture.shape == (720, 1280, 3) and picture.dtype == np.uint8
    points = np.broadcast_to(example.joints_headset_m, (4, fakes.J, 3))
    uv, valid = cameras.project(example.rig.cameras, transforms.apply(example.rig.T_cam_headset, points))
    visible = np.asarray(valid & cameras.inside_image(example.rig.cameras, uv))
    assert visible.sum() > 10
    left, top, right, _ = drawing.VIEWS_BOX
    cell = (right - left - 8) / 2
    marked = colored(picture, poses.PREDICTION_COLOR, drawing.VIEWS_BOX)
    for place, v in enumerate((1, 2, 0, 3)):  # front cameras above
        corner = np.array([left + (place % 2) * (cell + 8), top + (place // 2) * (cell + 8)])
        for j in np.flatnonzero(visible[v]):
            x, y = corner + (np.asarray(uv[v, j]) + 0.5) * cell / 64
            assert np.abs(marked + 0.5 - [y, x]).sum(-1).min() < 3


def test_what_is_not_there_is_not_drawn():
    frames = make_frames(1)
    nothing = np.full((fakes.J, 3), np.nan, np.float32)
    (no_prediction,) = draw(change(frames, joints_headset_m=nothing))
    assert not len(colored(no_prediction, poses.PREDICTION_COLOR, drawing.VIEWS_BOX))
    assert len(colored(no_prediction, poses.TRUTH_COLOR, drawing.VIEWS_BOX))
    unknown = change(frames, joint_valid=np.zeros(fakes.J, bool), true_joints_headset_m=nothing, err_cm=float("nan"))
    (no_truth,) = draw(unknown)
    assert not len(colored(no_truth, poses.TRUTH_COLOR))  # not even in the legend
    assert len(colored(no_truth, poses.PREDICTION_COLOR, drawing.VIEWS_BOX))


def test_a_view_without_an_image_says_so():
    frames = change(make_frames(1), images=np.full((4, 64, 48), 200, np.uint8))
    (whole,) = draw(frames)
    (part,) = draw(change(frames, view_valid=np.array([True, True, False, True])))
    right_front = (364, 60, 600, 200)  # below the name, above the body
    assert len(colored(whole, "#c8c8c8", right_front)) > 1000
    assert not len(colored(part, "#c8c8c8", right_front))


def test_two_views_stand_side_by_side():
    frames = make_frames(1)
    rig = jax.tree.map(lambda leaf: leaf[1:3], frames[0].example.rig)
    images = np.full((2, 64, 48), 200, np.uint8)
    (picture,) = draw(change(frames, images=images, rig=rig, view_valid=np.ones(2, bool)), fakes.TWO_VIEWS)
    assert all(len(colored(picture, "#c8c8c8", box)) > 10000 for box in ((24, 24, 356, 696), (364, 24, 696, 696)))


@pytest.mark.parametrize("sigma_m", [0.02, 0.4])
def test_the_body_and_its_ellipsoids_stay_inside_the_panel(sigma_m):
    """The person walks three metres and bows; nothing but the panel's own colour touches its border."""
    frames = make_frames(12)
    for t, f in enumerate(frames):
        f.example.T_world_headset[:3, 3] += [0.25 * t, -0.05 * t, 0.1 * t]
    frames = with_scale(frames, np.broadcast_to(np.eye(3) * sigma_m, (fakes.J, 3, 3)))
    left, top, right, bottom = drawing.BODY_BOX
    for picture in draw(frames, frame_rate=2.0):  # a full turn within the frames
        body = colored(picture, poses.PREDICTION_COLOR, (left, top + 46, right, bottom - 40))
        assert len(body) > 100
        panel = np.array(ImageColor.getrgb(drawing.PANEL))
        for strip in (picture[top + 90 : bottom - 50, left + 2 : left + 10], picture[top + 44 : top + 50, left:right]):
            assert (strip == panel).all()
        assert (picture[top + 90 : bottom - 50, right - 10 : right - 2] == panel).all()


def test_the_camera_follows_the_person():
    """Elsewhere in the world, by whole cells of the floor's grid, the picture is the same."""
    frames = make_frames(2)
    moved = make_frames(2)
    for f in moved:
        f.example.T_world_headset[:3, 3] += [2.0, 0.0, -1.0]
    for a, b in zip(draw(frames), draw(moved), strict=True):
        assert (np.abs(a.astype(int) - b).max(-1) > 8).mean() < 1e-3
    raised = make_frames(2)
    for f in raised:
        f.example.T_world_headset[:3, 3] += [0.0, 0.3, 0.0]
    assert any(
        (np.abs(a.astype(int) - b).max(-1) > 8).mean() > 1e-3 for a, b in zip(draw(frames), draw(raised), strict=True)
    )


def test_the_body_turns_slowly():
    """Of a person who stands still, one second shows another side, two frames nearly the same."""
    still = make_frames(1) * 21
    box = drawing.BODY_BOX
    pictures = [p[box[1] : box[3], box[0] : box[2]].astype(int) for p in draw(still)]

    def changed(a, b):
        return (np.abs(a - b).max(-1) > 40).mean()

    assert 0 < changed(pictures[0], pictures[1]) < changed(pictures[0], pictures[10]) / 2


def test_rings_are_the_silhouettes_of_the_ellipsoids():
    (frame,) = make_frames(1)
    example = frame.example
    radius = metrics.ellipsoid_radius(0.5, example.distribution.degrees_of_freedom)
    shot = stage.shoot(example, SKELETON, np.zeros(3), 40.0)
    ball = np.random.default_rng(0).normal(size=(3, 20000))
    ball /= np.linalg.norm(ball, axis=0)
    for ring, j in zip(shot.rings, ellipsoids.with_ellipsoid(example, SKELETON), strict=True):
        surface = radius * example.T_world_headset[:3, :3] @ example.distribution.cholesky_m[j] @ ball
        shadow = (shot.basis @ (poses.to_world(example, example.joints_headset_m[j])[:, None] + surface)).T
        angles = np.linspace(0, np.pi, 16)
        directions = np.stack([np.cos(angles), np.sin(angles)])
        # A convex outline is known by how far it reaches in each direction.
        np.testing.assert_allclose((ring @ directions).max(0), (shadow @ directions).max(0), atol=1e-3)


def test_views_are_arranged_as_the_wearer_has_them():
    rig = make_frames(1)[0].example.rig
    names = [LAYOUT.view_names[v] for v in panels.arrange(rig, 2)]
    assert names == ["left_front", "right_front", "left_side", "right_side"]
    assert [LAYOUT.view_names[v] for v in panels.arrange(rig, 4)] == list(LAYOUT.view_names)
    backwards = jax.tree.map(lambda leaf: leaf[::-1], rig)
    assert [LAYOUT.view_names[3 - v] for v in panels.arrange(backwards, 2)] == names


def test_uncertainty_that_is_switched_off_or_not_finite_leaves_the_skeleton():
    (without,) = draw(make_frames(1, uncertain=False))
    spoiled = np.full((fakes.J, 3, 3), np.nan, np.float32)
    (broken,) = draw(with_scale(make_frames(1), spoiled))
    for picture in (without, broken):
        assert len(colored(picture, poses.PREDICTION_COLOR, drawing.BODY_BOX)) > 100


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="frames of a video: there are none"):
        draw([])


def test_gif_holds_every_frame(tmp_path):
    path = tmp_path / "walk.gif"
    writer = encoding.open_writer(path, frame_rate=10.0)
    pictures = list(video.draw_frames(make_frames(3), SKELETON, LAYOUT, title="walk", runtime="JAX", frame_rate=10.0))
    for picture in pictures:
        writer.add(picture)
    writer.close()
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (3, encoding.GIF_SIZE_PX, 0)
        for i, picture in enumerate(pictures):
            gif.seek(i)
            assert gif.info["duration"] == 100
            expected = np.asarray(picture.resize(encoding.GIF_SIZE_PX, Image.Resampling.HAMMING)).astype(int)
            assert np.abs(np.asarray(gif.convert("RGB")) - expected).mean() < 2


@pytest.mark.extras
def test_mp4_holds_every_frame(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    path = tmp_path / "walk.mp4"
    writer = encoding.open_writer(path, frame_rate=10.0)
    pictures = list(video.draw_frames(make_frames(3), SKELETON, LAYOUT, title="walk", runtime="JAX", frame_rate=10.0))
    for picture in pictures:
        writer.add(picture)
    writer.close()
    command = [ffmpeg, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    decoded = raw.reshape(-1, 720, 1280, 3)
    assert len(decoded) == 3
    for frame, picture in zip(decoded, pictures, strict=True):
        assert np.abs(frame.astype(int) - np.asarray(picture)).mean() < 3


def test_files_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.avi: suffix of a video: .*\.gif.*\.mp4"):
        encoding.open_writer(tmp_path / "a.avi", 10.0)
    with pytest.raises(ValueError, match="no such folder"):
        encoding.open_writer(tmp_path / "missing" / "a.gif", 10.0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"a video other than \.gif needs the extra: pip install 'epfv2_jax\[video\]'"):
        encoding.open_writer(tmp_path / "a.mp4", 10.0)
    with pytest.raises(ValueError, match=r"a\.mp4: suffix of a recording for Rerun.*\.rrd"):
        rerun_log.check_path(tmp_path / "a.mp4")


@pytest.mark.extras
def test_rerun_recording_holds_the_poses(tmp_path):
    pytest.importorskip("rerun")
    frames = make_frames(3)
    path = tmp_path / "walk.rrd"
    rerun_log.write(path, frames, SKELETON, LAYOUT, title="walk")
    assert path.stat().st_size > 10_000


def test_axes_of_the_ellipsoids_are_rotations():
    lower = make_frames(1)[0].example.distribution.cholesky_m
    axes, half = ellipsoids.principal_axes(lower)
    np.testing.assert_allclose(np.linalg.det(axes), 1.0, atol=1e-5)
    covariance = np.einsum("nik,nk,njk->nij", axes, half**2, axes)
    np.testing.assert_allclose(covariance, lower @ np.swapaxes(lower, -1, -2), atol=1e-7)
