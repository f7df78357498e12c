"""Pictures: skeletons land where cameras put them, nothing is drawn where nothing is seen, the page stands alone."""

import dataclasses
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from epfv2_jax.evaluation import evaluate as evaluation
from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.examples import Keep
from epfv2_jax.geometry import cameras, layout, skeleton, transforms
from epfv2_jax.metrics import pose as metrics
from epfv2_jax.testing import fakes
from epfv2_jax.training.log import Curve
from epfv2_jax.viz import ellipsoids, overlays, page, pose3d, poses, report

SKELETON, LAYOUT = skeleton.EGOBODY3M, layout.EGOBODY3M


@pytest.fixture(scope="module")
def result():
    batch = fakes.mask_some(fakes.fake_batch(B=3, T=5))
    batch.frames.view_valid[2, :, 1] = False
    predictions = fakes.fake_predictions(batch)
    mean_pose = metrics.mean_pose([batch], SKELETON)
    views = evaluation.view_ablations(LAYOUT)
    return evaluation.evaluate(lambda _: predictions, [batch], SKELETON, mean_pose, views, keep=Keep(worst=1, median=1))


@pytest.fixture(scope="module")
def example(result):
    image = np.zeros((4, 64, 48), np.uint8)
    rig = result.worst[0].rig
    rig = rig.replace(cameras=cameras.resize(rig.cameras, 48, 64))
    return dataclasses.replace(
        result.worst[0], images=image, rig=rig, view_valid=np.ones(4, bool), joint_valid=np.ones(fakes.J, bool)
    )


def colored(picture, color):
    """Returns the pixels (y, x) whose colour is nearly `color`."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere(np.abs(picture.astype(int) - rgb).max(-1) < 40)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg", "no such backend"])
def test_a_backend_in_the_environment_does_not_matter(backend):
    code = (
        "from epfv2_jax.viz import plots; plots.figure(2, 1).canvas.draw(); import os; print(os.environ['MPLBACKEND'])"
    )
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == backend, "it is the programs' that are started from here"


def test_every_visible_joint_is_marked_where_the_camera_sees_it(example):
    pictures = overlays.draw_views(
        dataclasses.replace(example, joints_headset_m=np.full((fakes.J, 3), np.nan)), SKELETON, 320
    )
    points = np.broadcast_to(example.true_joints_headset_m, (4, fakes.J, 3))
    uv, valid = cameras.project(example.rig.cameras, transforms.apply(example.rig.T_cam_headset, points))
    visible = np.asarray(valid & cameras.inside_image(example.rig.cameras, uv))
    assert visible.sum() > 10
    for v in range(4):
        assert pictures[v].shape == (320, 240, 3)
        marked = colored(pictures[v], poses.TRUTH_COLOR)
        for j in np.flatnonzero(visible[v]):
            x, y = (np.asarray(uv[v, j]) + 0.5) * 5  # 48x64 drawn at 240x320
            assert np.abs(marked + 0.5 - [y, x]).sum(-1).min() < 4, SKELETON.joint_names[j]
        assert not len(colored(pictures[v], poses.PREDICTION_COLOR))


def test_what_no_camera_sees_is_not_drawn(example):
    above = example.true_joints_headset_m * 0.1 + [0.0, 5.0, -5.0]
    pictures = overlays.draw_views(
        dataclasses.replace(example, true_joints_headset_m=above.astype(np.float32), joints_headset_m=above),
        SKELETON,
        100,
    )
    assert all((picture == 0).all() for picture in pictures)


def test_what_the_lens_model_does_not_cover_is_not_drawn(example):
    """Such points are clamped to pixels inside the image: only their validity tells."""
    cameras_ = example.rig.cameras
    narrow = cameras_.replace(max_angle_rad=np.full_like(cameras_.max_angle_rad, 0.05))
    pictures = overlays.draw_views(dataclasses.replace(example, rig=example.rig.replace(cameras=narrow)), SKELETON, 100)
    assert all((picture == 0).all() for picture in pictures)


def test_bones_of_one_invalid_joint_are_left_out(example):
    no_prediction = np.full((fakes.J, 3), np.nan, np.float32)
    whole = dataclasses.replace(example, joints_headset_m=no_prediction)
    elbow = SKELETON.index("b_l_forearm")
    part = dataclasses.replace(whole, joint_valid=np.arange(fakes.J) != elbow)
    drawn = [
        {
            (v, *p)
            for v, picture in enumerate(overlays.draw_views(e, SKELETON, 200))
            for p in colored(picture, poses.TRUTH_COLOR)
        }
        for e in (whole, part)
    ]
    assert len(drawn[1]) < len(drawn[0])
    assert len(drawn[1] - drawn[0]) < 0.02 * len(drawn[1])


def test_bones_of_invalid_joints_are_left_out(example):
    nothing = dataclasses.replace(
        example, joint_valid=np.zeros(fakes.J, bool), true_joints_headset_m=np.full((fakes.J, 3), np.nan, np.float32)
    )
    assert not any(len(colored(p, poses.TRUTH_COLOR)) for p in overlays.draw_views(nothing, SKELETON, 200))
    assert sum(len(colored(p, poses.PREDICTION_COLOR)) for p in overlays.draw_views(nothing, SKELETON, 200)) > 50


def test_float_images_look_like_bytes(example):
    image = np.random.default_rng(0).integers(0, 255, example.images.shape, dtype=np.uint8)
    pair = [dataclasses.replace(example, images=x) for x in (image, (image / 255).astype(np.float32))]
    for a, b in zip(*(overlays.draw_views(e, SKELETON) for e in pair), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bones_connect_every_joint_and_join_the_children_of_the_hidden_root():
    assert {j for bone in SKELETON.bones for j in bone} == set(range(fakes.J))
    hips = {SKELETON.index(name) for name in ("b_l_upleg", "b_r_upleg", "b_spine0")}
    assert sum(set(bone) <= hips for bone in SKELETON.bones) == 3
    assert len(SKELETON.bones) == fakes.J


def test_runs_split_at_gaps():
    visible = np.array([1, 1, 0, 1, 0, 1, 1, 1], bool)
    runs = poses.visible_runs(np.arange(8)[:, None], visible)
    assert [list(run[:, 0]) for run in runs] == [[0, 1], [5, 6, 7]]


def test_joints_that_coincide_with_their_parent_share_an_ellipsoid(example):
    drawn = ellipsoids.with_ellipsoid(example, SKELETON)
    assert {SKELETON.joint_names[j] for j in set(range(fakes.J)) - set(drawn)} == {"b_l_talocrural", "b_r_talocrural"}
    at_the_root = dataclasses.replace(SKELETON, rest_offsets_m=((0.0, 0.0, 0.0),) * fakes.J)
    assert set(ellipsoids.with_ellipsoid(example, at_the_root)) == set(SKELETON.children(-1))  # no parent is drawn
    assert not len(ellipsoids.with_ellipsoid(dataclasses.replace(example, distribution=None), SKELETON))


def test_size_of_the_ellipsoids_follows_the_degrees_of_freedom(example):
    """The radius with which half of a Student-t lies inside is that of a sample of it."""
    rng = np.random.default_rng(0)
    for nu in (3.0, 30.0):
        sample = rng.normal(size=(200_000, 3)) / np.sqrt(rng.chisquare(nu, (200_000, 1)) / nu)
        expected = np.quantile(np.linalg.norm(sample, axis=1), ellipsoids.LEVEL)
        found = ellipsoids.radius(example.distribution.replace(degrees_of_freedom=nu))
        assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("azimuth, elevation", [(0, 0), (25, 12), (90, 12), (200, -40)])
def test_view_axes_are_a_right_handed_frame(azimuth, elevation):
    basis = pose3d.view_axes(azimuth, elevation)
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(basis) == pytest.approx(1)
    assert basis[1, 1] > 0  # world up is up in the picture


def test_facing_frame_removes_heading_and_keeps_heights(example):
    for heading in (0.0, 1.0, 3.0):
        c, s = np.cos(heading), np.sin(heading)
        turn = np.eye(4)
        turn[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        turn[:3, 3] = [4.0, 0.0, -2.0]
        straight = np.eye(4)
        straight[1, 3] = 1.6
        np.testing.assert_allclose(pose3d.facing_frame(turn @ straight), straight, atol=1e-12)
        moved = pose3d.facing_frame(turn @ example.T_world_headset)
        np.testing.assert_allclose(moved, pose3d.facing_frame(example.T_world_headset.astype(float)), atol=1e-6)


def test_ellipse_is_the_silhouette_of_the_ellipsoid():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(2, 3))
    ball = rng.normal(size=(3, 20000))
    shadow = half @ (ball / np.linalg.norm(ball, axis=0))
    e = ellipsoids.ellipse(half)
    a = np.deg2rad(e["angle"])
    local = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) @ shadow
    level = (2 * local[0] / e["width"]) ** 2 + (2 * local[1] / e["height"]) ** 2
    assert level.max() == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_report_stands_alone(result, tmp_path):
    curves = {"loss": Curve([1, 2], [5.0, 4.0]), "validation/mpjpe_cm": Curve([1, 2], [9.0, 8.0])}
    subject = report.Subject(
        title="A <b>model</b>", about={"command": "`run <it>`"}, describe_clip="walk {}".format, curves=curves
    )
    path = report.write_report(tmp_path / "out", result, SKELETON, LAYOUT, subject)
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]
    text = path.read_text()
    pictures = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert [picture.partition(";")[0] for picture in pictures] == ["data:image/webp"] * 2 + ["data:image/svg+xml"] * 4
    assert "<b>model" not in text and "A &lt;b&gt;model" in text and "<code>run &lt;it&gt;</code>" in text
    sections = ("Frames", "How errors are distributed", "Error of each joint", "Uncertainty", "Training")
    assert re.findall("<h2>([^<]*)</h2>", text) == list(sections)
    assert f"walk {result.worst[0].clip_id}, frame {result.worst[0].frame} of the clip" in text
    assert f"{result.metrics['mpjpe_cm']:.2f}" in text and f"{result.baselines['mean pose']['mpjpe_cm']:.2f}" in text


def test_each_button_shows_its_own_part():
    text = page.picker({"worst": [("9", "<i>a</i>"), ("8", "<i>b</i>")], "best": [("1", "<i>c</i>")]})
    assert re.findall('id="(p[0-9])"( checked)?', text) == [("p1", " checked"), ("p2", ""), ("p3", "")]
    assert re.findall('<label for="(p[0-9])">([0-9])<', text) == [("p1", "9"), ("p2", "8"), ("p3", "1")]
    for n, part in zip((1, 2, 3), "abc", strict=True):
        assert f"#p{n}:checked ~ figure:nth-of-type({n})" in text
        assert re.findall("<figure><i>(.)</i></figure>", text)[n - 1] == part
    assert page.picker({"worst": []}) == ""


def test_report_without_uncertainty_baseline_or_frames(tmp_path):
    batch = fakes.fake_batch(B=1, T=2)
    predictions = fakes.fake_predictions(batch).replace(distribution=None)
    result = evaluation.evaluate(jax.jit(lambda _: predictions), [batch], SKELETON, keep=Keep(worst=1))
    text = report.write_report(tmp_path, result, SKELETON, LAYOUT, report.Subject()).read_text()
    assert "Uncertainty" not in text and "Training" not in text
    assert "mean pose" not in text and "hidden / model" not in text


def test_the_table_has_the_joint_groups_of_the_skeleton(result):
    metrics_ = {k: v for k, v in result.metrics.items() if k not in ("leg_cm", "foot_cm", "shoulder_cm")}
    found = dataclasses.replace(result, groups=("wrist", "a<b"), metrics={**metrics_, "a<b_cm": 1.25}, baselines={})
    text = report._summary_table(found)
    assert re.findall("<th>([^<]*)</th>", text) == ["cm", "MPJPE", "MPJVE", "wrist", "a&lt;b", "PA-MPJPE", "MPJVE m/s"]
    assert "<td>1.25</td>" in text
    headings = ["cm", "MPJPE", "MPJVE", "wrist", "shoulder", "leg", "foot", "PA-MPJPE", "MPJVE m/s"]
    assert re.findall("<th>([^<]*)</th>", report._summary_table(result)) == headings


def test_the_tables_have_a_row_or_column_for_each_baseline(result):
    table = report._summary_table(result)
    labels, expected = re.findall("<tr><td>([^<]*)</td>", table), [label for label, _ in tables.rows(result)]
    assert labels == expected and labels[3:5] == ["views hidden", "views hidden / model"]
    assert f"{result.baselines['left_side alone']['mpjpe_cm']:.2f}" in table
    assert "the less the images tell the model" in table
    heads = re.findall("<th>([^<]*)</th>", report._joint_table(result))
    assert heads == ["joint", "model, cm", *(f"{name}, cm" for name in result.baselines), ""]


def test_pictures_take_any_skeleton_and_layout(example, tmp_path):
    """Three joints, one of them the root itself, and two cameras."""
    keep = [9, 0, 13]
    short = skeleton.Skeleton(
        name="bust",
        joint_names=("neck", "head", "r_chest"),
        parents=(-1, 0, 0),
        mirror=(0, 1, 2),
        root_between=(0,),
        groups=(),
        rest_offsets_m=((0.0, 0.0, 0.0), (0.0, 0.1, 0.0), (0.0, -0.2, 0.0)),
        rest_root_headset_m=(0.0, -0.2, -0.1),
    )
    assert short.bones == ((0, 1), (0, 2))
    part = dataclasses.replace(
        example,
        images=example.images[:2],
        rig=jax.tree.map(lambda leaf: leaf[:2], example.rig),
        view_valid=np.ones(2, bool),
        true_joints_headset_m=example.true_joints_headset_m[keep],
        joint_valid=np.ones(3, bool),
        joints_headset_m=example.joints_headset_m[keep],
        distribution=jax.tree.map(lambda leaf: leaf[keep], example.distribution),
    )
    figure = report.draw_frame(part, short, fakes.TWO_VIEWS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["left", "right"]
    assert [label.get_text() for label in figure.axes[4].get_yticklabels()] == ["neck", "head", "right chest"]
    pictures = overlays.draw_views(part, short, 200)
    assert len(pictures) == 2
