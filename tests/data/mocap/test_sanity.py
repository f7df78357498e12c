"""Whether a motion is a person's: wrong units, angles and rates are refused with the cause, real people pass."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from walker import WALK, bvh_text, walk, write_asf_amc

from epfv2_jax.data.mocap import loading
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON


@pytest.mark.parametrize("ratio", [100.0, 0.01, 2.54, 1 / 2.54, 10.0, 0.1, 1000.0, 0.001, 39.37, 5.644])
def test_positions_in_another_unit_than_the_offsets_are_refused(ratio, load):
    walker = walk(seconds=2.0)
    with pytest.raises(ValueError, match=r"walk\.bvh: the hips move .* in another unit than the offsets.* one unit"):
        load(walker.replace(root=walker.root * ratio))


@pytest.mark.parametrize("ratio", [100.0, 0.01, 2.54, 1 / 2.54, 0.1])
def test_mixed_units_are_refused_where_the_hips_keep_their_height(ratio, load):
    walker = walk()
    level = walker.root * [1, 0, 1] + [0, walker.root[:, 1].mean(), 0]
    load(walker.replace(root=level))
    with pytest.raises(ValueError, match="another unit than the offsets"):
        load(walker.replace(root=level * ratio))


def test_shared_cases_of_mixed_units_are_refused(shared_data):
    for name in ("offsets_cm_positions_m", "offsets_m_positions_cm"):
        with pytest.raises(ValueError, match=rf"{name}\.bvh: the hips move .* in another unit than the offsets"):
            loading.load_clip(shared_data / "cases" / "bvh_mixed_units" / f"{name}.bvh")


def test_offsets_in_mixed_units_are_refused(load):
    walker = walk()
    offsets = walker.offsets.copy()
    offsets[[walker.names.index(f"{side}{name}") for side in ("Left", "Right") for name in ("ForeArm", "Hand")]] *= 0.1
    with pytest.raises(ValueError, match="the lengths of arm and leg are as"):
        load(walker.replace(offsets=offsets))
    offsets = walker.offsets.copy()
    offsets[walker.names.index("LeftLeg")] *= 0.4
    with pytest.raises(ValueError, match=r"the lengths of (thigh and shin|left and right leg) are as"):
        load(walker.replace(offsets=offsets))
    offsets = walker.offsets.copy()
    offsets[[walker.names.index(name) for name in ("Spine", "Spine1", "Neck", "Head")]] *= 3
    with pytest.raises(ValueError, match=r"the head is .* lengths of the legs above the ankles"):
        load(walker.replace(offsets=offsets))


@pytest.mark.parametrize("length", [1.0, 0.1, 2.54 * 2.54])
def test_wrong_lengths_of_asf_files_are_refused(length, tmp_path):
    path = write_asf_amc(walk(), tmp_path, "01.asf", "01_01.amc", length=2.54)
    asf = path.with_name("01.asf")
    asf.write_text(asf.read_text().replace("length 2.54\n", f"length {length}\n", 1))
    with pytest.raises(
        ValueError, match=r"01_01\.amc: thigh and shin are .* correct 'length' in :units of the ASF file"
    ):
        loading.load_clip(path, fps=120)


def test_shared_case_of_a_wrong_length_is_refused(shared_data):
    with pytest.raises(ValueError, match=r"thigh and shin are 2\.11 m long.* 2\.54 for cm"):
        loading.load_clip(shared_data / "cases" / "asf_length_unit" / "90_01.amc", fps=30)


def in_radians(text: str) -> str:
    """A BVH text whose angles are in radians."""
    head, time, rows = text.partition("Frame Time: 0.0083333\n")
    numbers = np.array([row.split() for row in rows.splitlines()], float)
    numbers[:, 3:] = np.radians(numbers[:, 3:])
    return head + time + "\n".join(" ".join(f"{v:.6f}" for v in row) for row in numbers)


@pytest.mark.parametrize("speed_m_s", [1.2, 0.0])
def test_angles_in_radians_are_refused(speed_m_s, load):
    with pytest.raises(ValueError, match=r"walk\.bvh: no joint turns by more than .* in radians are read as degrees"):
        load(in_radians(bvh_text(walk(speed_m_s=speed_m_s))))


def test_amc_angles_in_the_other_unit_are_refused(tmp_path):
    path = write_asf_amc(walk(), tmp_path, "01.asf", "01_01.amc")
    amc = path.read_text()
    asf = path.with_name("01.asf")

    def in_radians(row: str) -> str:
        name, *numbers = row.split()
        return (
            row
            if name == "root" or not numbers
            else f"{name} " + " ".join(f"{np.radians(float(n)):.7f}" for n in numbers)
        )

    rows = "\n".join(map(in_radians, amc.splitlines()))
    path.write_text(rows)
    with pytest.raises(ValueError, match=r"01_01\.amc: no joint turns by more than .* :RADIANS"):
        loading.load_clip(path, fps=120)
    path.write_text(amc.replace(":DEGREES", ":RADIANS"))
    asf.write_text(asf.read_text().replace("angle deg", "angle rad"))
    with pytest.raises(ValueError, match=r"01_01\.amc: .*(read as radians|lies or hangs|knees bend forwards)"):
        loading.load_clip(path, fps=120)


def test_knees_that_bend_forwards_are_refused(load):
    walker = walk()
    rotations = walker.rotations.copy()
    for name in ("LeftLeg", "RightLeg"):
        i = walker.names.index(name)
        rotations[:, i] = np.swapaxes(rotations[:, i], -1, -2)
    with pytest.raises(ValueError, match=r"the knees bend forwards in .* mirrored"):
        load(walker.replace(rotations=rotations))


def posed(**angles: tuple[float, float]) -> dict:
    """The walk with other limbs, by their angles about x and z, degrees."""
    return WALK | {name: (lambda phase, x=x, z=z: (x + 0 * phase, z + 0 * phase)) for name, (x, z) in angles.items()}


SITTING = posed(LeftUpLeg=(-85, 5), RightUpLeg=(-85, -5), LeftLeg=(90, 0), RightLeg=(90, 0))
CROUCHING = posed(LeftUpLeg=(-120, 0), RightUpLeg=(-120, 0), LeftLeg=(140, 0), RightLeg=(140, 0))
STIFF_KNEES = posed(LeftLeg=(-8, 0), RightLeg=(-8, 0))
T_ARMS = posed(LeftArm=(0, 0), RightArm=(0, 0))


@pytest.mark.parametrize(
    "walker",
    [
        walk(speed_m_s=9.0),
        walk(speed_m_s=0.0),
        walk(pose=SITTING, speed_m_s=0.0),
        walk(pose=CROUCHING, speed_m_s=0.3, leaning_deg=30),
        walk(pose=STIFF_KNEES),
        walk(pose=T_ARMS),
        walk(seconds=1 / 120),
        walk(seconds=2 / 120),
        walk().scaled(0.64),  # a child of six
        walk().scaled(1.3),
    ],
    ids=[
        "sprint",
        "still",
        "sitting",
        "crouching",
        "stiff_knees",
        "t_arms",
        "one_frame",
        "two_frames",
        "child",
        "tall",
    ],
)
def test_people_pass(walker, load):
    clip = load(walker)
    _, joints_m = clip.world_pose
    leg_m = joints_m[0, SKELETON.joint_names.index("b_l_leg")] - joints_m[0, SKELETON.joint_names.index("b_l_upleg")]
    thigh_cm = np.linalg.norm(walker.offsets[walker.names.index("LeftLeg")])
    assert np.linalg.norm(leg_m) == pytest.approx(thigh_cm / 100, rel=1e-3)


def test_people_off_the_floor_pass(load, plain, same):
    walker = walk()
    up = lambda height_cm: walker.replace(root=walker.root + np.stack([0 * height_cm, height_cm, 0 * height_cm], -1))  # noqa: E731
    time = np.arange(len(walker.root)) / walker.fps
    same(load(up(np.full(len(time), 150.0))), plain)  # a stage
    same(load(up(np.full(len(time), -90.0))), plain)  # an origin at the hips
    load(up(60 * time))  # stairs
    load(up(60 * np.sin(np.pi * time)))  # a jump
    load(walker.replace(root=np.zeros_like(walker.root)))  # in place, at the origin
    load(walker.replace(root=walker.root * [1, 1, 0]))  # on a treadmill


def test_who_stands_still_in_a_rest_pose_with_the_arms_down_passes(load):
    down = {"LeftArm": -75.0, "RightArm": 75.0}
    walker = walk(pose={}, speed_m_s=0.0)
    axes = np.tile(np.eye(3), (len(walker.names), 1, 1))
    for i, name in enumerate(walker.names):
        above = name.removesuffix("Hand").removesuffix("Fore").replace("ForeArm", "Arm")
        above = above if above.endswith("Arm") else f"{above}Arm"
        if above in down:
            axes[i] = Rotation.from_euler("z", down[above], degrees=True).as_matrix()
    rest = walker.turned(np.eye(3), axes)
    load(rest.replace(rotations=np.tile(np.eye(3), (*rest.rotations.shape[:2], 1, 1))))
    with pytest.raises(ValueError, match="stays in its rest pose with its arms stretched out"):
        load(walker)
