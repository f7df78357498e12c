"""Axes of rest pose and world: turned files are read as they are meant, doubtful ones refused with the cause."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from walker import Walker, walk

from epfv2_jax.data.mocap import loading
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON

EYE = np.eye(3)
Z_UP = Rotation.from_euler("x", 90, degrees=True).as_matrix()  # takes y to z
OTHER_AXES = {
    "z up": Z_UP,
    "z up, facing x": Rotation.from_euler("zx", [90, 90], degrees=True).as_matrix(),
    "-z up": Z_UP.T,
    "x up": Rotation.from_euler("z", -90, degrees=True).as_matrix(),
    "y down, as in images": Rotation.from_euler("x", 180, degrees=True).as_matrix(),
    "facing away": Rotation.from_euler("y", 180, degrees=True).as_matrix(),
    "facing aslant": Rotation.from_euler("y", 33, degrees=True).as_matrix(),
}


@pytest.mark.parametrize("axes", OTHER_AXES)
def test_a_file_on_other_axes_shows_the_same_motion(axes, load, plain, same):
    same(load(walk().turned(OTHER_AXES[axes], OTHER_AXES[axes])), plain)


@pytest.mark.parametrize("axes", [name for name in OTHER_AXES if name != "y down, as in images"])
def test_a_rest_pose_on_other_axes_than_the_world_shows_the_same_motion(axes, load, plain, same):
    """As after a root that turns the figure: the motion is upright although the rest pose is not."""
    same(load(walk().turned(EYE, OTHER_AXES[axes])), plain)


@pytest.mark.parametrize("axes", ["z up", "-z up", "x up", "y down, as in images"])
def test_a_motion_that_lies_although_the_rest_pose_stands_is_refused(axes, load):
    with pytest.raises(
        ValueError, match=r"walk\.bvh: the figure lies or hangs .* 0% of the frames .* the rest pose stands"
    ):
        load(walk().turned(OTHER_AXES[axes], EYE))


@pytest.mark.parametrize("mirror", [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
def test_left_handed_files_are_refused(mirror, load):
    mirror = np.diag(np.array(mirror, float))
    with pytest.raises(ValueError, match=r"walk\.bvh: the toes point backwards .* left-handed"):
        load(walk().turned(mirror, mirror))


def test_exchanged_left_and_right_are_refused(load):
    swap = {"L": "Right", "R": "Left"}
    rename = lambda name: swap[name[0]] + name.removeprefix("Left").removeprefix("Right") if name[0] in swap else name  # noqa: E731
    with pytest.raises(ValueError, match="names of left and right are exchanged"):
        load(walk().renamed(rename))


def lafan1() -> Walker:
    """The walker on LaFAN1's axes: the bones of the limbs along x of their joints, and the spine's up too."""
    walker = walk()
    axes = np.empty((len(walker.names), 3, 3))
    for i, name in enumerate(walker.names):
        limb = "Leg" in name or name.endswith(("Foot", "ToeBase", "Shoulder", "Arm", "Hand"))
        child = walker.parents.index(i) if i in walker.parents else None
        bone = walker.offsets[child] if child is not None else walker.offsets[i]
        x = bone / np.linalg.norm(bone) if limb else np.array([0.0, 1.0, 0.0])
        z = (
            np.array([-1.0, 0, 0])
            if abs(x[0]) < 0.5 and limb
            else np.array([1.0, 0, 0])
            if not limb
            else np.array([0, 1.0, 0])
        )
        z = z - (z @ x) * x
        z /= np.linalg.norm(z)
        axes[i] = np.stack([x, np.cross(z, x), z])  # R_file_plain
    return walker.turned(EYE, axes)


def test_bones_that_all_lie_along_x_at_rest_are_stood_up_by_the_motion(load, plain, same):
    walker = lafan1()
    for name in ("LeftLeg", "LeftFoot", "RightLeg", "LeftForeArm", "LeftHand"):
        offset = walker.offsets[walker.names.index(name)]
        np.testing.assert_allclose(offset, [np.linalg.norm(offset), 0, 0], atol=1e-9)
    clip = load(walker)
    # The bones lie where they lay. What a joint turns about its bone counts from the frame that stands best.
    (turns, joints_m), (wanted, wanted_m) = clip.world_pose, plain.world_pose
    feet = list(SKELETON.metric_groups["foot"])
    others = [j for j in range(SKELETON.num_joints) if j not in feet]
    np.testing.assert_allclose(
        (joints_m - joints_m[:1, :1])[:, others], (wanted_m - wanted_m[:1, :1])[:, others], atol=0.015
    )
    np.testing.assert_allclose(
        (joints_m - joints_m[:1, :1])[:, feet], (wanted_m - wanted_m[:1, :1])[:, feet], atol=0.03
    )
    head = SKELETON.joint_names.index("b_head")
    cosine = 0.5 * (np.einsum("fab,fab->f", turns[:, head], wanted[:, head]) - 1)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.1  # of the head, which wears the cameras


def test_a_figure_that_never_stands_is_refused(load):
    walker = lafan1()
    rotations = walker.rotations.copy()
    rotations[:, walker.names.index("LeftUpLeg")] = EYE
    with pytest.raises(ValueError, match="neither the rest pose nor any frame stands upright with y up"):
        load(walker.replace(rotations=rotations))


def lean(*stops: tuple[float, float], frames: int = 120) -> np.ndarray:
    """Angles (F,), degrees, of the root about x, linear between (share of the clip, angle)."""
    return np.interp(np.arange(frames) / frames, *zip(*stops, strict=True))


@pytest.mark.parametrize(
    "leaning_deg",
    [
        lean((0, 0), (0.2, 90), (0.9, 90), (1, 0)),  # lies down on the belly and gets up
        lean((0, -90), (0.8, -90), (1, 0)),  # gets up from the back
        lean((0, 0), (1, 360)),  # a roll or a somersault
        lean((0, 0), (0.2, 180), (0.8, 180), (1, 0)),  # a handstand
        lean((0, 35), (1, 35)),  # walks bent forwards
    ],
)
def test_who_lies_rolls_or_stands_on_the_hands_for_a_while_is_read(leaning_deg, load):
    walker = walk(leaning_deg=leaning_deg)
    clip = load(walker)
    index = SKELETON.joint_names.index
    _, joints_m = clip.world_pose
    trunk = joints_m[:, index("b_neck0")] - clip.root_position_m
    cosine = trunk[:, 1] / np.linalg.norm(trunk, axis=-1)
    np.testing.assert_allclose(cosine, np.cos(np.radians(leaning_deg[::4])), atol=0.05)


def test_who_lies_all_the_time_is_refused_with_what_to_do(load):
    with pytest.raises(
        ValueError, match="if the person does lie or crawl all the time, keep frames in which he or she"
    ):
        load(walk(leaning_deg=-90.0))


def test_who_bends_down_in_a_file_with_z_up_is_refused(load):
    walker = walk(speed_m_s=0.1)
    bend = np.where((np.arange(120) > 100) & (np.arange(120) < 112), 85.0, 0.0)
    rotations = walker.rotations.copy()
    spine = walker.names.index("Spine")
    rotations[:, spine] = Rotation.from_euler("x", bend[:, None], degrees=True).as_matrix()
    facing_down = Rotation.from_euler("y", 180, degrees=True).as_matrix()  # bends to where y is up in the file
    walker = walker.replace(rotations=rotations).turned(Z_UP @ facing_down, np.eye(3))
    with pytest.raises(
        ValueError, match=r"in \d+% of the frames the trunk is upright with y up, in 9\d% it points along \+z"
    ):
        load(walker)


def test_shared_case_with_z_up_in_the_motion_alone(shared_data):
    with pytest.raises(
        ValueError, match=r"in 100% it points along \+z, but the rest pose stands along \+y; if \+z is up"
    ):
        loading.load_clip(shared_data / "cases" / "bvh_motion_z_up" / "zup_motion_yup_rest.bvh")
