"""Motion capture files: analytic poses of tiny figures, frame rates, two sources of one motion, files to be refused."""

import numpy as np
import pytest

from epfv2_jax.data.mocap import articulated, asf_amc, bvh, loading
from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON

# A vertical bone of 2 inches with a horizontal one of 1 inch at its end. The second one's own axes are turned by 90
# degrees about z, so its "rx" turns about the world's y axis.
ASF = """# two bones
:version 1.10
:name VICON
:units
  mass 1.0
  length 1
  angle deg
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name upper
     direction 0 1 0
     length 2
     axis 0 0 0 XYZ
     dof rx rz
     limits (-90 90)
            (-90 90)
  end
  begin
     id 2
     name lower
     direction 0 0 1
     length 1
     axis 0 0 90 XYZ
     dof rx
  end
  begin
     id 3
     name tip
     direction 1 0 0
     length 0.5
     axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root upper
    upper lower
    lower tip
  end
"""
AMC = """#!OML:ASF
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 0 0 0
upper 0 0
lower 0
2
root 0 0 0 0 90 0
upper 90 0
lower 90
"""
BVH = """HIERARCHY
ROOT Hips
{
    OFFSET 0 0 0
    CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
    JOINT Upper
    {
        OFFSET 0 2 0
        CHANNELS 3 Zrotation Yrotation Xrotation
        End Site
        {
            OFFSET 0 0 1
        }
    }
}
MOTION
Frames: 2
Frame Time: 0.0083333
1 2 3 0 0 0 0 0 0
0 0 0 0 90 0 90 0 90
"""


@pytest.fixture
def amc(tmp_path):
    (tmp_path / "01.asf").write_text(ASF)
    path = tmp_path / "01_01.amc"
    path.write_text(AMC)
    return path


def ends_m(motion: articulated.ArticulatedMotion) -> np.ndarray:
    """World positions (F, N, 3) of the ends of all bones."""
    rotations, starts_m = articulated.world_pose(motion)
    return starts_m + np.einsum("fnij,nj->fni", rotations, motion.tips_m)


def clip_joints_m(clip) -> np.ndarray:
    offsets_m = np.broadcast_to(clip.offsets_m, clip.joint_rotations.shape[:-1])
    return np.asarray(
        kinematics.forward_kinematics(
            SKELETON.parents, clip.root_rotation, clip.root_position_m, clip.joint_rotations, offsets_m
        )[0]
    )


def test_asf_amc_positions_of_a_hand_made_figure(amc):
    motion = asf_amc.read_amc(amc, asf_amc.read_asf(amc.with_name("01.asf")), fps=30.0)
    assert motion.names == ("root", "upper", "lower", "tip")
    inches = ends_m(motion) / 0.0254
    np.testing.assert_allclose(inches[0], [[1, 2, 3], [1, 4, 3], [1, 4, 4], [1.5, 4, 4]], atol=1e-12)
    # The root turns z to x, x to -z. Under it `upper` turns its y to z, hence to the world's x, and its z to -y.
    # `lower` turns z to x before that: to the world's -z; and x to -z: to +y.
    np.testing.assert_allclose(inches[1], [[0, 0, 0], [2, 0, 0], [2, 0, -1], [2, 0.5, -1]], atol=1e-12)


def test_order_of_degrees_of_freedom_is_the_order_of_turning(tmp_path, amc):
    amc.write_text(AMC.replace("upper 90 0\nlower 90", "upper 90 90\nlower 0").replace("0 0 0 0 90 0", "0 0 0 0 0 0"))
    motion = asf_amc.read_amc(amc, asf_amc.read_asf(amc.with_name("01.asf")), fps=30.0)
    # First about x (y to z, z to -y), then about the world's z (-y to x).
    np.testing.assert_allclose(ends_m(motion)[1, 1:3] / 0.0254, [[0, 0, 2], [1, 0, 2]], atol=1e-12)


def test_radians_and_unit_of_length(tmp_path, amc):
    text = ASF.replace("length 1\n", "length 0.45\n", 1).replace("angle deg", "angle rad")
    (tmp_path / "01.asf").write_text(text.replace("axis 0 0 90", "axis 0 0 1.5707963267948966"))
    amc.write_text(AMC.replace(":DEGREES", ":RADIANS").replace(" 90", " 1.5707963267948966"))
    motion = asf_amc.read_amc(amc, asf_amc.read_asf(tmp_path / "01.asf"), fps=30.0)
    np.testing.assert_allclose(ends_m(motion)[1, 3] / 0.0254 * 0.45, [2, 0.5, -1], atol=1e-12)


def test_bvh_positions_of_a_hand_made_figure(tmp_path):
    path = tmp_path / "figure.bvh"
    path.write_text(BVH)
    motion = bvh.read_bvh(path, unit_m=0.01)
    assert motion.fps == pytest.approx(120.0, rel=1e-4)
    rotations, joints_m = articulated.world_pose(motion)
    np.testing.assert_allclose(joints_m[:, 1] * 100, [[1, 4, 3], [0, 2, 0]], atol=1e-12)
    # Rz(90) Rx(90) takes z by -y to x; the root's Ry(90) takes that to -z.
    np.testing.assert_allclose(ends_m(motion)[:, 1] * 100, [[1, 4, 4], [0, 2, -1]], atol=1e-12)
    np.testing.assert_allclose(rotations @ np.swapaxes(rotations, -1, -2), np.tile(np.eye(3), (2, 2, 1, 1)), atol=1e-12)


def spinning(tmp_path, frames: int, frame_time: str) -> articulated.ArticulatedMotion:
    """A figure that moves by 1 unit and turns by 9 degrees about y in each frame, read from a BVH file."""
    path = tmp_path / "figure.bvh"
    rows = "".join(f"{i} 0 0 0 {9 * i} 0 0 0 0\n" for i in range(frames))
    text = BVH.split("1 2 3")[0].replace("Frames: 2", f"Frames: {frames}").replace("0.0083333", frame_time)
    path.write_text(text + rows)
    return bvh.read_bvh(path)


def test_a_whole_multiple_of_the_rate_keeps_every_kth_frame(tmp_path):
    motion = spinning(tmp_path, 10, "0.0083333")
    thin = articulated.resampled(motion, 30.0)
    np.testing.assert_array_equal(thin.root_position_m[:, 0], [0, 4, 8])
    np.testing.assert_allclose(thin.joint_rotations, motion.joint_rotations[::4], atol=1e-12)


@pytest.mark.parametrize(
    ("frame_time", "fps"),
    [("0.01", 100), ("0.02", 50), ("0.0416667", 24), ("0.033", 30.303), ("0.0333", 30), ("0.04", 25)],
)
def test_any_frame_time_is_resampled_at_the_same_speed(tmp_path, frame_time, fps):
    motion = spinning(tmp_path, 31, frame_time)
    assert motion.fps == pytest.approx(fps, rel=1e-4)
    even = articulated.resampled(motion, 30.0)
    place = np.arange(even.num_frames) * motion.fps / 30  # in frames of the file
    assert even.fps == 30.0 and place[-1] <= 30 < place[-1] + motion.fps / 30
    np.testing.assert_allclose(even.root_position_m[:, 0], place, atol=1e-9)
    angle = np.radians(9 * place)
    np.testing.assert_allclose(even.joint_rotations[:, 0, 0, 2], np.sin(angle), atol=1e-9)
    np.testing.assert_allclose(even.joint_rotations[:, 0, 0, 0], np.cos(angle), atol=1e-9)


@pytest.mark.parametrize(("folder", "fps"), [(".", 120), ("at30", 30)])
def test_amc_at_its_own_rate_walks_at_its_own_speed(shared_data, folder, fps):
    path = shared_data / "cases" / "amc_120hz" / folder / "90_01.amc"
    clip = loading.load_clip(path, fps=fps)
    way_m = np.linalg.norm(clip.root_position_m[-1] - clip.root_position_m[0])
    assert way_m / ((clip.num_frames - 1) / clip.fps) == pytest.approx(1.2, rel=0.01)
    assert 1.9 < clip.num_frames / 30 < 2.1


def test_amc_without_a_rate_is_refused(shared_data):
    path = shared_data / "cases" / "amc_120hz" / "90_01.amc"
    message = r"90_01\.amc: AMC files do not state their frame rate; set motion_fps .* to it: 120 for CMU's originals"
    with pytest.raises(ValueError, match=message):
        loading.load_clip(path)


def test_two_sources_of_one_motion_agree(shared_data):
    folder = shared_data / "mocap_cmu"
    from_amc, from_bvh = loading.load_clip(folder / "01_01.amc", fps=30), loading.load_clip(folder / "01_01.bvh")
    a_m, b_m = clip_joints_m(from_amc), clip_joints_m(from_bvh)
    assert a_m.shape == b_m.shape == (688, SKELETON.num_joints, 3)
    err_cm = np.linalg.norm(a_m - b_m, axis=-1) * 100
    # Measured: mean 0.0002 cm, largest 0.0005 cm. The BVH file rounds angles to 1e-4 degrees.
    assert err_cm.mean() < 0.0005 and err_cm.max() < 0.002
    np.testing.assert_allclose(from_amc.joint_rotations, from_bvh.joint_rotations, atol=2e-5)


def test_retargeted_clip_follows_its_source(shared_data):
    folder = shared_data / "mocap_cmu"
    source = asf_amc.read_amc(folder / "02_01.amc", asf_amc.read_asf(folder / "02.asf"), 30.0)
    clip = loading.load_clip(folder / "02_01.amc", fps=30)
    joints_m = clip_joints_m(clip)
    lengths_m = np.linalg.norm(joints_m[:, 15] - joints_m[:, 14], axis=-1)
    np.testing.assert_allclose(lengths_m, lengths_m[0], atol=1e-6)
    assert abs(joints_m[..., 1].min()) < 1e-5
    assert np.isin(joints_m.reshape(-1, 26, 3)[..., 1].argmin(-1), SKELETON.metric_groups["foot"]).all()

    rotations, source_m = articulated.world_pose(source)
    index, target = source.names.index, SKELETON.joint_names.index
    hips_m = 0.5 * (source_m[:, index("lfemur")] + source_m[:, index("rfemur")])
    # Positions relative to the hips: the hip width and the shoulders are those of the rest pose, hence the tolerances.
    for bone, joint, tolerance_m in (
        *(("ltibia", "b_l_leg", 0.02), ("rtibia", "b_r_leg", 0.02), ("lfoot", "b_l_talocrural", 0.02)),
        *(("rfoot", "b_r_talocrural", 0.02), ("lradius", "b_l_forearm", 0.08), ("rradius", "b_r_forearm", 0.08)),
    ):
        error_m = (joints_m[:, target(joint)] - clip.root_position_m) - (source_m[:, index(bone)] - hips_m)
        assert np.linalg.norm(error_m, axis=-1).max() < tolerance_m, joint
    for side in "lr":
        foot = joints_m[:, target(f"b_{side}_transversetarsal")] - joints_m[:, target(f"b_{side}_talocrural")]
        source_foot = source_m[:, index(f"{side}toes")] - source_m[:, index(f"{side}foot")]
        cosine = (foot * source_foot).sum(-1) / np.linalg.norm(foot, axis=-1) / np.linalg.norm(source_foot, axis=-1)
        assert cosine.min() > 0.9999  # the same bone direction, and below: no roll about it against the shin
        shin = joints_m[:, target(f"b_{side}_talocrural")] - joints_m[:, target(f"b_{side}_leg")]
        sole = world_rotation(clip, f"b_{side}_talocrural")[:, :, 1]
        assert (-(shin * sole).sum(-1) / np.linalg.norm(shin, axis=-1)).min() > 0.7
    np.testing.assert_allclose(world_rotation(clip, "b_head"), rotations[:, index("head")], atol=1e-5)


def world_rotation(clip, name: str) -> np.ndarray:
    rotation, joint = np.eye(3), SKELETON.joint_names.index(name)
    while joint >= 0:
        rotation, joint = clip.joint_rotations[:, joint] @ rotation, SKELETON.parents[joint]
    return clip.root_rotation @ rotation


def test_a_standing_walker_looks_forward_and_is_upright(shared_data):
    clip = loading.load_clip(shared_data / "mocap_cmu" / "02_01.amc", fps=30)
    joints_m = clip_joints_m(clip)
    walked = joints_m[-1] - joints_m[0]
    forward = walked.mean(0) / np.linalg.norm(walked.mean(0))
    gaze = world_rotation(clip, "b_head")[:, :, 2]
    assert (gaze @ forward > 0.9).all()  # +z of the head is where the person walks
    left = joints_m[:, SKELETON.joint_names.index("b_l_upleg")] - joints_m[:, SKELETON.joint_names.index("b_r_upleg")]
    assert (np.cross([0.0, 1.0, 0.0], gaze) * left).sum(-1).min() > 0.1  # the left hip is to the left of the gaze
    assert joints_m[:, 0, 1].min() > 1.3


def test_every_shared_clip_loads(shared_data):
    paths = sorted((shared_data / "mocap_cmu").glob("*.amc"))
    assert len(paths) == 25
    for path in paths[::4]:
        clip = loading.load_clip(path, fps=30)
        eye = clip.joint_rotations @ np.swapaxes(clip.joint_rotations, -1, -2)
        np.testing.assert_allclose(eye, np.broadcast_to(np.eye(3), eye.shape), atol=1e-5)
        assert clip.fps == 30.0 and np.isfinite(clip.root_position_m).all()


def test_bvh_unit_is_found_by_the_length_of_the_legs(shared_data, tmp_path):
    path = shared_data / "mocap_cmu" / "01_01.bvh"
    short = tmp_path / "01_01.bvh"
    head, _, motion = path.read_text().partition("MOTION")
    lines = motion.strip().splitlines()
    short.write_text(head + "MOTION\nFrames: 9\n" + "\n".join(lines[1:11]) + "\n")
    expected = loading.load_clip(short)
    np.testing.assert_allclose(
        loading.load_clip(short, bvh_unit_m=0.0254 / 0.45).root_position_m, expected.root_position_m, atol=1e-7
    )
    short.write_text(short.read_text().replace("OFFSET 2.44811 -6.72613", "OFFSET 2.44811 -670.0"))
    with pytest.raises(ValueError, match=r"the legs are .* units long, a human length in none of metre, .*bvh_unit_m"):
        loading.load_clip(short)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":hierarchy", ":hierachy", r"01\.asf:\d+: unknown section.*hierachy"),
        ("length 2\n", "length two\n", r"01\.asf:18: 'two' is not a number"),
        ("length 2\n", "length -2\n", r"01\.asf:18: a bone's length must not be negative"),
        ("direction 0 1 0", "direction 0 2 0", r"01\.asf:17: a bone's direction must have length 1, got 2"),
        ("direction 0 1 0", "direction 0 1", r"01\.asf:17: expected 3 numbers, got 2"),
        ("dof rx rz", "dof rx ry2", r"01\.asf:20: a bone's dof may name each of rx, ry, rz once"),
        ("  angle deg\n", "", r"01\.asf:4: no line 'angle' in :units"),
        ("angle deg", "angle grad", r"01\.asf:7: the unit of angles must be 'deg' or 'rad'"),
        ("length 1\n  angle", "length 0\n  angle", r"01\.asf:6: the unit of length must be positive"),
        ("position 0 0 0", "position 0 1 0", r"01\.asf:11: a root position other than 0 0 0"),
        ("order TX TY TZ RX RY RZ", "order TX TY TZ RX RY", r"01\.asf:9: the root's order must name"),
        ("lower tip\n", "lower top\n", r"01\.asf:43: bone 'top' is not in :bonedata"),
        ("    lower tip\n", "", r"01\.asf:\d+: bone 'tip' is not below 'root'"),
        ("upper lower", "upper lower upper", r"01\.asf:42: bone 'upper' has two parents"),
        ("     name upper\n", "", r"the bone that ends here has no 'name'"),
        (ASF[ASF.index(":hierarchy") :], "", r"01\.asf: section :hierarchy is missing; the file may be cut off"),
    ],
)
def test_bad_asf_is_refused(amc, old, new, message):
    assert old in ASF
    path = amc.with_name("01.asf")
    path.write_text(ASF.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        asf_amc.read_asf(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":DEGREES\n", "", r"01_01\.amc: no line :DEGREES"),
        (":FULLY-SPECIFIED\n", "", r"01_01\.amc: no line :FULLY-SPECIFIED"),
        ("upper 0 0\n", "upper 0\n", r"01_01\.amc:6: expected 2 numbers, got 1; the line is 'upper 0'"),
        ("upper 0 0\n", "upper 0 nan\n", r"01_01\.amc:6: 'nan' is not a finite number"),
        ("upper 0 0\n", "uper 0 0\n", r"01_01\.amc:6: bone 'uper' is not in .*01\.asf"),
        ("upper 0 0\n", "upper 0 0\nupper 0 0\n", r"01_01\.amc:7: bone 'upper' occurs twice in frame 1"),
        ("\n2\n", "\n3\n", r"01_01\.amc:8: frame 3 follows frame 1"),
        ("lower 90\n", "", r"01_01\.amc:8: frame 2 has no line for bone 'lower'; the file may be cut off"),
        ("1\nroot", "root", r"01_01\.amc:4: expected the number of the first frame"),
        (AMC[AMC.index("1\nroot") :], "", r"01_01\.amc: frames: there are none"),
    ],
)
def test_bad_amc_is_refused(amc, old, new, message):
    assert old in AMC
    amc.write_text(AMC.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        asf_amc.read_amc(amc, asf_amc.read_asf(amc.with_name("01.asf")), fps=30.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "HIERARCH", r"a\.bvh:1: expected 'HIERARCHY'"),
        ("CHANNELS 6 ", "CHANNELS 5 ", r"a\.bvh:5: expected the number of channels.*there are 6 names"),
        ("Xposition Yposition", "Xposition Xposition", r"a\.bvh:5: channels may be each of"),
        ("CHANNELS 3 Zrotation", "CHANNELS 3 Wrotation", r"a\.bvh:9: channels may be each of"),
        ("OFFSET 0 2 0", "OFFSET 0 2 inf", r"a\.bvh:8: 'inf' is not a finite number"),
        ("        OFFSET 0 2 0\n", "", r"joint 'Upper', which ends here, has no OFFSET"),
        ("JOINT Upper", "JOINT Hips", r"a\.bvh:6: the name of the joint is taken"),
        ("Frames: 2", "Frames: 4", r"a\.bvh:17: expected 4 frames, got 2"),
        ("Frames: 2", "Frames: 2.5", r"a\.bvh:17: the number of frames must be a positive whole number"),
        ("Frames: 2", "Fames: 2", r"a\.bvh:17: expected 'Frames:' and a number"),
        ("0.0083333", "0", r"a\.bvh:18: the frame time must be positive"),
        ("0.0083333", "120", r"a\.bvh:18: the frame time must be positive, in seconds, of 5 to 1000 frames a second"),
        ("0 2 0", "0 2 1e300", r"a\.bvh:8: '1e300' is too large for a length"),
        (
            "MOTION",
            "ROOT Other\n{\nOFFSET 0 0 0\nCHANNELS 0\nJOINT Two\n{\nOFFSET 0 0 0\nCHANNELS 0\n}\n}\nMOTION",
            r"a\.bvh: holds 2 figures, of \[2, 2\] joints",
        ),
        ("0 90 0 90\n", "0 90 0\n", r"a\.bvh:20: expected 9 numbers, got 8"),
        (BVH[BVH.index("MOTION") :], "", r"a\.bvh: the file ends too early"),
    ],
)
def test_bad_bvh_is_refused(tmp_path, old, new, message):
    assert old in BVH
    path = tmp_path / "a.bvh"
    path.write_text(BVH.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        bvh.read_bvh(path)


def test_clips_that_cannot_be_loaded_are_refused(tmp_path, amc):
    with pytest.raises(ValueError, match=r"type of motion file: '\.fbx' is not one of '\.amc', '\.bvh'"):
        loading.load_clip(tmp_path / "a.fbx")
    with pytest.raises(ValueError, match=r"01_02\.amc: no such file"):
        loading.load_clip(tmp_path / "01_02.amc", fps=30)
    lonely = amc.rename(tmp_path / "07_01.amc")
    with pytest.raises(ValueError, match=r"07\.asf: no such file.*; put the subject's ASF beside .*07_01\.amc"):
        loading.load_clip(lonely)
    lonely.rename(amc)
    with pytest.raises(ValueError, match="no joint for the head; rename it to one of head; the file has root, upper"):
        loading.load_clip(amc, fps=30)
