"""A headset, its poses and its wearer pass; each mistake that users make is refused by its likely cause."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from epfv2_jax.data import rig as rig_lib
from epfv2_jax.geometry import layout, plausibility, skeleton
from epfv2_jax.geometry.layout import RigLayout

BODY, LAYOUT = skeleton.EGOBODY3M, layout.EGOBODY3M
RIG = rig_lib.upright(rig_lib.default_rig(), LAYOUT, (100, 80))
T, CENTER_PX, SIZE_PX = (np.asarray(x) for x in (RIG.T_cam_headset, RIG.cameras.center_px, RIG.cameras.size_px))


def inverted(T):
    return np.linalg.inv(T)


def scaled(factor):
    def in_other_unit(T):
        T = T.copy()
        T[..., :3, 3] *= factor
        return T

    return in_other_unit


def opengl(T):
    return np.diag([1.0, -1.0, -1.0, 1.0]) @ T


def turned(T):
    quarter = np.eye(4)
    quarter[:2, :2] = [[0, -1], [1, 0]]
    return quarter @ T


def swapped(T):
    return T[[3, 2, 1, 0]]


@pytest.mark.parametrize(
    "mistake, message",
    [
        (scaled(100), r"left_side: the camera is 8.* m from the headset; .* in cm or mm"),
        (scaled(1000), r"m from the headset; .* in cm or mm"),
        (inverted, r"left_side lies .* cm to the right of right_side; .* inverted"),
        (opengl, "OpenGL axes"),
        (turned, "left_side: up in the image is .* turn images and cameras upright"),
        (swapped, "left_side lies 15.* cm to the right of right_side; are they exchanged"),
    ],
)
def test_cameras_that_are_not_those_of_a_headset(mistake, message):
    plausibility.check_cameras(T, CENTER_PX, SIZE_PX, LAYOUT)
    with pytest.raises(ValueError, match=message):
        plausibility.check_cameras(mistake(T), CENTER_PX, SIZE_PX, LAYOUT)


@pytest.mark.parametrize("size", [(40, 50), (160, 200), (100, 80), (80, 140)])
def test_images_of_another_size_than_their_calibration(size):
    with pytest.raises(ValueError, match=r"right_front: the principal point .* resized, cropped or turned"):
        sizes = SIZE_PX.copy()
        sizes[2] = size
        plausibility.check_cameras(T, CENTER_PX, sizes, LAYOUT)


def test_other_headsets_pass():
    """One camera; two that look down, also straight down; and such a pair without names for its sides."""
    for degrees in (50, 90, 105):
        down = np.eye(4)
        down[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
        pair = np.stack([down, down])
        for T_one, x_m in zip(pair, (0.05, -0.05), strict=True):
            T_one[:3, 3] = -T_one[:3, :3] @ [x_m, 0.0, 0.1]
        for views, T_cam_headset in ((("centre",), pair[:1]), (("left", "right"), pair), (("a", "b"), pair)):
            mirror = None if len(views) == 1 else (1, 0)
            named = RigLayout(name="x", view_names=views, upright_turns=(0,) * len(views), mirror=mirror)
            n = len(views)
            plausibility.check_cameras(T_cam_headset, np.full((n, 2), 49.5), np.full((n, 2), 100.0), named)


def walking(frames=60, seed=0):
    """World joints, validity and headset poses of a person who turns and walks about."""
    rng = np.random.default_rng(seed)
    rest_m = BODY.rest_joints_headset_m() + rng.normal(0, 0.02, (frames, BODY.num_joints, 3))
    T_world_headset = np.tile(np.eye(4), (frames, 1, 1))
    T_world_headset[:, :3, :3] = Rotation.from_euler(
        "y", np.linspace(0, 300, frames)[:, None], degrees=True
    ).as_matrix()
    T_world_headset[:, :3, 3] = [3.0, 1.6, -7.0] + np.linspace(0, 1, frames)[:, None] * [2.0, 0.0, 1.0]
    joints_m = np.einsum("nij,nkj->nki", T_world_headset[:, :3, :3], rest_m) + T_world_headset[:, None, :3, 3]
    return joints_m, np.ones(joints_m.shape[:2], bool), T_world_headset


def moved(matrix, data, share=1.0):
    """The first `share` of the frames with joints and poses moved by a world transform (4, 4)."""
    joints_m, valid, T_world_headset = (x.copy() for x in data)
    n = round(share * len(joints_m))
    joints_m[:n] = joints_m[:n] @ matrix[:3, :3].T + matrix[:3, 3]
    T_world_headset[:n] = matrix @ T_world_headset[:n]
    return joints_m, valid, T_world_headset


def turn(axis, degrees):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return matrix


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: (100 * d[0], d[1], d[2]), "the body is 1.* times as large as a grown person.*unit"),
        (lambda d: (d[0] / 100, d[1], d[2]), "the body is 0.01.* times as large"),
        (lambda d: (d[0], d[1], scaled(100)(d[2])), "b_head is .* m from the headset; .*one unit"),
        (lambda d: (d[0], d[1], inverted(d[2])), "b_head is .* does T_world_headset map headset to world"),
        (lambda d: (d[0] + [0, 0, 1], d[1], d[2]), "b_head is 1.0.* m from the headset"),
        (lambda d: moved(turn("x", 90), d), "the body stands along z of the world, not along y; y must be up"),
        (lambda d: moved(turn("z", 90), d), "the body stands along -x of the world"),
        (lambda d: moved(turn("x", 180), d), "the body stands along -y of the world"),
        (lambda d: (d[0][:, list(BODY.mirror)], d[1], d[2]), "left joints are .* cm to the wearer's right"),
        (
            lambda d: (d[0] * [1, 1, -1], d[1], d[2] * np.outer([1, 1, -1, 1], [1, 1, -1, 1])),
            "the body is mirrored; are the axes left-handed",
        ),
    ],
)
def test_bodies_that_cannot_be_the_wearers(change, message):
    data = walking()
    plausibility.check_body(*data, BODY)
    with pytest.raises(ValueError, match=message):
        plausibility.check_body(*change(data), BODY)


def test_people_who_lie_down_for_a_while_children_and_gaps_pass():
    joints_m, valid, T_world_headset = walking()
    plausibility.check_body(*moved(turn("x", 90), (joints_m, valid, T_world_headset), share=0.45), BODY)
    plausibility.check_body(*moved(turn("z", 180), (joints_m, valid, T_world_headset), share=0.45), BODY)
    origin_m = T_world_headset[:, None, :3, 3]
    plausibility.check_body(origin_m + 0.65 * (joints_m - origin_m), valid, T_world_headset, BODY)
    holes = np.random.default_rng(1).random(valid.shape) > 0.3
    plausibility.check_body(np.where(holes[..., None], joints_m, np.nan), holes, T_world_headset, BODY)
    plausibility.check_body(joints_m, np.zeros_like(valid), T_world_headset, BODY)  # nothing is known: nothing is wrong


def test_other_skeletons_pass():
    """Arms alone, far below the headset and moving anywhere; a chain without sides; two joints that coincide."""
    rng, poses = np.random.default_rng(0), walking()[2]

    def skeleton_of(parents, mirror, offsets_m, root_m):
        names = tuple("abcdefgh"[: len(parents)])
        return skeleton.Skeleton(
            name="x",
            joint_names=names,
            parents=parents,
            mirror=mirror,
            root_between=(0,),
            groups=(),
            rest_offsets_m=offsets_m,
            rest_root_headset_m=root_m,
        )

    arms = ((0, 0, 0), (0.3, 0, 0), (0.3, 0, 0), (-0.3, 0, 0), (-0.3, 0, 0))
    for body in (
        skeleton_of((-1, 0, 1, 0, 3), (0, 3, 4, 1, 2), arms, (0, -0.5, 0)),
        skeleton_of((-1, 0, 1), (0, 1, 2), ((0, 0, 0), (0, -0.4, 0), (0, -0.4, 0)), (0, -0.2, 0)),
        skeleton_of((-1, 0), (0, 1), ((0, 0, 0), (0, 0, 0)), (0, 0, 0)),
    ):
        rest_m = body.rest_joints_headset_m() + rng.normal(0, 0.02, (len(poses), body.num_joints, 3))
        joints_m = np.einsum("nij,nkj->nki", poses[:, :3, :3], rest_m) + poses[:, None, :3, 3]
        plausibility.check_body(joints_m, np.ones(joints_m.shape[:2], bool), poses, body)
        with pytest.raises(ValueError, match="from the headset; are joints and headset poses in one unit"):
            plausibility.check_body(np.add(joints_m, [0, 0, 2]), np.ones(joints_m.shape[:2], bool), poses, body)


def test_heights_in_another_unit():
    T_world_headset = walking()[2]
    plausibility.check_poses(T_world_headset)
    for factor in (100, 1000):
        with pytest.raises(ValueError, match=r"the headset is 16\d+ m above the floor at y = 0; is it in cm or mm"):
            plausibility.check_poses(scaled(factor)(T_world_headset))


def problems(findings):
    return {finding.check: finding.verdict for finding in findings if finding.problem}


def test_mirror_pairs_that_are_none_and_views_that_look_backward():
    shifted = T.copy()
    shifted[:, :3, 3] -= T[:, :3, :3] @ [0.02, 0.0, 0.0]  # the origin 2 cm beside the middle
    assert problems(plausibility.cameras(shifted, CENTER_PX, SIZE_PX, LAYOUT)) == {"mirror_pair": "error"}
    behind = T @ np.diag([-1.0, 1.0, -1.0, 1.0])
    views = RigLayout(name="x", view_names=("rear_a", "rear_b", "rear_c", "rear_d"), upright_turns=(0,) * 4)
    assert problems(plausibility.cameras(behind[[0, 1, 2, 3]], CENTER_PX, SIZE_PX, views)) == {}
    named = RigLayout(name="x", view_names=tuple("abcd"), upright_turns=(0,) * 4)
    assert "optical_axis" in problems(plausibility.cameras(behind, CENTER_PX, SIZE_PX, named))


@pytest.mark.parametrize("check, move", [("speed", [0.5, 0, 0]), (None, [0.05, 0, 0])])
def test_jumps_are_warnings(check, move):
    poses = walking()[2]
    poses[30:, :3, 3] += move
    found = problems(plausibility.poses(poses, np.arange(60) / 30))
    assert found == ({check: "warning"} if check else {})


def test_poses_that_hang_upside_down():
    poses = walking()[2] @ np.diag([-1.0, -1.0, 1.0, 1.0])
    assert problems(plausibility.poses(poses, np.arange(60) / 30)) == {"headset_up": "error"}


def test_a_head_that_moves_in_the_headset_and_bones_that_stretch():
    joints_m, valid, poses = walking()
    assert problems(plausibility.body(joints_m, valid, poses, BODY)) == {"bone_length": "warning"}  # 2 cm of noise
    late = np.roll(joints_m, 5, axis=0)
    assert "head_rigid" in problems(plausibility.body(late[10:], valid[10:], poses[10:] @ moving(50), BODY))


def moving(frames):
    """Shifts (n, 4, 4) of 10 cm to and fro."""
    shift = np.tile(np.eye(4), (frames, 1, 1))
    shift[:, 0, 3] = 0.1 * np.sin(np.arange(frames))
    return shift


def test_some_invalid_joints_silence_no_check():
    joints_m, valid, poses = walking()
    valid[:, [BODY.index(name) for name in ("b_l_subtalar", "b_r_transversetarsal", "b_l_shoulder")]] = False
    mirrored = joints_m * [1, 1, -1], valid, poses * np.outer([1, 1, -1, 1], [1, 1, -1, 1])
    assert "handedness" in problems(plausibility.body(*mirrored, BODY))


def test_what_the_cameras_see():
    rest_m = np.tile(BODY.rest_joints_headset_m(), (3, 1, 1))
    valid = np.ones(rest_m.shape[:2], bool)
    seen = list(plausibility.views(RIG.cameras, T, rest_m, valid, LAYOUT))
    assert problems(seen) == {} and len(seen) == 5
    above = rest_m + np.array([0.0, 5.0, 0.0], np.float32)
    assert problems(plausibility.views(RIG.cameras, T, above, valid, LAYOUT)) == {
        "in_view": "warning",
        "in_any_view": "error",
    }
    one_seen = np.concatenate([np.tile(above, (20, 1, 1)), rest_m[:1]])
    one_valid = np.ones(one_seen.shape[:2], bool)
    assert problems(plausibility.views(RIG.cameras, T, one_seen, one_valid, LAYOUT))["in_any_view"] == "warning"
    assert list(plausibility.views(RIG.cameras, T, rest_m, ~valid, LAYOUT)) == []
