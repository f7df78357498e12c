"""BVH files of motions: our own reader and an independent one find the joints in them, whatever was dropped."""

import tracemalloc
import warnings

import mover
import numpy as np
import pytest

from epfv2_jax.data.mocap import articulated, bvh
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.interop import bvh as export
from epfv2_jax.interop import motion as motion_lib

F = 90


def read(path) -> tuple[np.ndarray, float]:
    """Returns the joints (F, J, 3) in the order of the skeleton, metres, and the frame rate."""
    found = bvh.read_bvh(path, unit_m=export.UNIT_M)
    _, joints_m = articulated.world_pose(found)
    return joints_m[:, [found.names.index(name) for name in EGOBODY3M.joint_names]], found.fps


@pytest.mark.parametrize("body", [True, False], ids=["body", "joints alone"])
def test_our_reader_finds_the_joints(tmp_path, body):
    rows = mover.rows(F, body)
    report = export.write_bvh(tmp_path / "walk.bvh", mover.motion(tmp_path / "m", rows))
    joints_m, fps = read(tmp_path / "walk.bvh")
    assert fps == 30 and joints_m.shape == rows["joints_world_m"].shape
    assert np.abs(joints_m - rows["joints_world_m"]).max() < 1e-3
    assert report == export.BvhReport(num_rows=F, num_interpolated=0, mean_cm=report.mean_cm, max_cm=report.max_cm)
    assert 0 <= report.mean_cm <= report.max_cm < 0.1


def test_an_independent_reader_finds_the_joints(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a module that it imports
        bvhio = pytest.importorskip("bvhio")
    rows = mover.rows(12)
    export.write_bvh(tmp_path / "walk.bvh", mover.motion(tmp_path / "m", rows))
    assert bvhio.readAsBvh(str(tmp_path / "walk.bvh")).FrameTime == pytest.approx(mover.FRAME_S)
    root = bvhio.readAsHierarchy(str(tmp_path / "walk.bvh"))
    for frame, joints_m in enumerate(rows["joints_world_m"]):
        root.loadPose(frame, recursive=True)
        found = {joint.Name: export.UNIT_M * np.array(joint.PositionWorld) for joint, _, _ in root.layout()}
        for name, joint_m in zip(EGOBODY3M.joint_names, joints_m, strict=True):
            np.testing.assert_allclose(found[name], joint_m, atol=1e-3)


def test_bones_turn_about_themselves_as_those_of_the_body(tmp_path):
    rows = mover.rows(F)
    export.write_bvh(tmp_path / "walk.bvh", mover.motion(tmp_path / "m", rows))
    found = bvh.read_bvh(tmp_path / "walk.bvh")
    for joint in EGOBODY3M.inner_joints:
        turned = found.joint_rotations[:, found.names.index(EGOBODY3M.joint_names[joint])]
        # Hips and chest carry several joints and are fitted as a piece: the same, to the accuracy of the joints.
        np.testing.assert_allclose(turned, rows["joint_rotations"][:, joint], atol=1e-3)


def test_rows_are_a_frame_time_apart_whatever_was_dropped(tmp_path):
    rows = mover.rows(F)
    rows["time_s"] += 0.002 * np.sin(np.arange(F))  # cameras jitter
    kept = np.delete(np.arange(F), [10, 11, 12, 40])
    rows["frame_valid"][[0, 60, 61]] = False
    rows["joints_world_m"][[0, 60, 61]] = np.nan
    parts = [{k: v[kept[a:b]] for k, v in rows.items()} for a, b in ((0, 30), (30, 58), (58, 60), (60, None))]
    report = export.write_bvh(tmp_path / "walk.bvh", mover.motion(tmp_path / "m", *parts))
    joints_m, _ = read(tmp_path / "walk.bvh")
    assert report.num_rows == len(joints_m) == F - 1 and report.num_interpolated == 6
    truth_m = mover.rows(F)["joints_world_m"][1:]
    missing = np.array([10, 11, 12, 40, 60, 61]) - 1
    known = np.delete(np.arange(F - 1), missing)
    assert np.abs(joints_m - truth_m)[known].max() < 1e-3
    # Between two poses the figure is between them: the hips on the line, and no bone changes its length.
    hips = joints_m[:, list(EGOBODY3M.root_between)].mean(1)
    np.testing.assert_allclose(hips[10], (hips[8] + hips[12]) / 2, atol=1e-3)
    for j, parent in enumerate(EGOBODY3M.parents):
        if parent >= 0:
            assert np.ptp(np.linalg.norm(joints_m[:, j] - joints_m[:, parent], axis=-1)) < 1e-4


def test_chunks_do_not_matter(tmp_path, monkeypatch):
    rows = mover.rows(F)
    rows["frame_valid"][20:40] = False
    export.write_bvh(tmp_path / "whole.bvh", mover.motion(tmp_path / "a", rows))
    monkeypatch.setattr(motion_lib, "CHUNK_FRAMES", 7)
    export.write_bvh(tmp_path / "parts.bvh", mover.motion(tmp_path / "b", rows))
    whole, parts = (np.loadtxt(tmp_path / f"{name}.bvh", skiprows=_header(tmp_path)) for name in ("whole", "parts"))
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def _header(folder) -> int:
    lines = (folder / "whole.bvh").read_text().splitlines()
    return next(i for i, line in enumerate(lines) if line.startswith("Frame Time")) + 1


def test_angles_do_not_jump_by_whole_turns(tmp_path):
    rows = mover.rows(200)
    angle = 0.1 * np.arange(200)  # three turns about y
    rows["T_world_headset"][:, :3, :3] = [
        [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]] for a in angle
    ]
    for name in ("root_rotation", "joint_rotations"):
        rows[name][:] = np.eye(3)
    rest_m = EGOBODY3M.rest_joints_headset_m()
    rows["joints_world_m"] = (rest_m @ np.swapaxes(rows["T_world_headset"][:, :3, :3], -1, -2)).astype(np.float32)
    export.write_bvh(tmp_path / "whole.bvh", mover.motion(tmp_path / "m", rows))
    values = np.loadtxt(tmp_path / "whole.bvh", skiprows=_header(tmp_path))
    turn = values[:, 3:6].sum(axis=1)  # Z, X, Y of the root
    np.testing.assert_allclose(turn - turn[0], np.degrees(angle), atol=0.01)


def test_bones_of_changing_length_become_constant_and_the_report_says_how_far_joints_move(tmp_path):
    rows = mover.rows(F, body=False)
    wrist = EGOBODY3M.index("b_l_wrist")
    bone = rows["joints_world_m"][:, wrist] - rows["joints_world_m"][:, EGOBODY3M.parents[wrist]]
    rows["joints_world_m"][:, wrist] += bone * np.where(np.arange(F) % 2, 0.1, -0.1)[:, None]
    report = export.write_bvh(tmp_path / "walk.bvh", mover.motion(tmp_path / "m", rows))
    joints_m, _ = read(tmp_path / "walk.bvh")
    moved_cm = 100 * np.linalg.norm(joints_m - rows["joints_world_m"], axis=-1)
    assert report.max_cm == pytest.approx(moved_cm.max(), abs=0.01) and report.max_cm > 2
    assert report.mean_cm == pytest.approx(moved_cm.mean(), abs=0.01)


def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr(motion_lib, "CHUNK_FRAMES", 16)
    monkeypatch.setattr(export, "_FITTED_FRAMES", 32)
    rows = mover.rows(32)

    def peak_bytes(repeats: int) -> int:
        parts = [{**rows, "time_s": rows["time_s"] + i * 32 * mover.FRAME_S} for i in range(repeats)]
        motion = mover.motion(tmp_path / str(repeats), *parts)
        tracemalloc.start()
        report = export.write_bvh(tmp_path / "walk.bvh", motion)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.num_rows == 32 * repeats
        return peak

    few, many = peak_bytes(2), peak_bytes(20)
    assert many < few + 200_000  # 18 more times the rows have 2.1 MB of joints and rotations


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows["frame_valid"].fill(False), "BVH of walk: frames with a pose: must be at least 1, got 0"),
        (lambda rows: rows["time_s"].__setitem__(-1, 1e6), "BVH of walk: joints times frame times: must be in"),
    ],
)
def test_what_no_reader_would_take_is_refused(tmp_path, change, message):
    rows = mover.rows(5)
    change(rows)
    with pytest.raises(ValueError, match=message):
        export.write_bvh(tmp_path / "walk.bvh", mover.motion(tmp_path / "m", rows))
    assert not (tmp_path / "walk.bvh").exists()
