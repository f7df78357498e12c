"""Procedural motion: smooth, various and seeded, on bones of constant length, with feet on the floor."""

import jax
import numpy as np
import pytest

from epfv2_jax.data.mocap import clip as clips
from epfv2_jax.data.synthetic import activities, body, motion, sequence
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON

JOINT = {name: i for i, name in enumerate(SKELETON.joint_names)}


def offsets_of(seed: int) -> np.ndarray:
    return body.sample_person(np.random.default_rng(seed)).offsets_m


@pytest.fixture(scope="module")
def motions() -> list[clips.MotionClip]:
    return [motion.sample_motion(np.random.default_rng([7, i]), offsets_of(i), 90) for i in range(12)]


def test_world_pose_is_forward_kinematics(motions):
    clip = motions[0]
    joints, _ = jax.jit(kinematics.forward_kinematics, static_argnums=0)(
        SKELETON.parents,
        clip.root_rotation,
        clip.root_position_m,
        clip.joint_rotations,
        np.broadcast_to(clip.offsets_m, (clip.num_frames, SKELETON.num_joints, 3)),
    )
    np.testing.assert_allclose(clip.world_pose[1], joints, atol=2e-6)


def test_rotations_are_rotations(motions):
    for clip in motions:
        rotations = clip.joint_rotations
        gram = rotations @ np.swapaxes(rotations, -1, -2)
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=2e-6)
        np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-5)


def test_bone_lengths_are_constant_and_those_of_the_person(motions):
    for i, clip in enumerate(motions):
        joints = clip.world_pose[1]
        for joint, parent in enumerate(SKELETON.parents):
            if parent >= 0:
                lengths = np.linalg.norm(joints[:, joint] - joints[:, parent], axis=-1)
                np.testing.assert_allclose(lengths, np.linalg.norm(offsets_of(i)[joint]), atol=1e-6)


def test_people_are_symmetric_and_differ():
    lengths = np.stack([np.linalg.norm(offsets_of(i), axis=-1) for i in range(20)])
    np.testing.assert_allclose(lengths, lengths[:, list(SKELETON.mirror)], atol=1e-12)
    bones = lengths.mean(axis=0) > 0
    assert (lengths[:, bones].std(axis=0) > 0.03 * lengths[:, bones].mean(axis=0)).all()


def test_lowest_foot_is_on_the_floor_in_every_frame(motions):
    for clip in motions:
        np.testing.assert_allclose(clips.sole_heights(clip), 0.0, atol=1e-5)


def test_standing_foot_of_a_walker_does_not_slide():
    """While the pelvis travels straight and the other foot is in the air, the standing ankle stays where it is."""
    slides, travels = [], []
    for i in range(8):
        clip = motion.sample_motion(np.random.default_rng(i), offsets_of(i), 90, activities=["walk"])
        joints = clip.world_pose[1]
        ankles = joints[:, [JOINT["b_l_foot_twist"], JOINT["b_r_foot_twist"]]]
        heading = np.unwrap(np.arctan2(clip.root_rotation[:, 0, 2], clip.root_rotation[:, 2, 2]))
        travel = np.linalg.norm(np.diff(clip.root_position_m[:, ::2], axis=0), axis=-1)
        walks = (np.abs(np.diff(heading)) < 0.015) & (travel > 0.012)
        for stands, other in ((0, 1), (1, 0)):
            held = (ankles[:, other, 1] - ankles[:, stands, 1] > 0.04)[1:] & walks
            slides.append(np.linalg.norm(np.diff(ankles[:, stands, ::2], axis=0), axis=-1)[held])
            travels.append(travel[held])
    slides, travels = np.concatenate(slides), np.concatenate(travels)
    assert len(slides) > 50
    assert np.quantile(slides / travels, 0.8) < 0.15


def test_motion_is_smooth_and_various(motions):
    joints = np.stack([clip.world_pose[1] for clip in motions])
    speed = np.linalg.norm(np.diff(joints, axis=1), axis=-1) * clips.FPS
    assert speed.max() < 9.0  # metres a second
    T_head = joints[:, :, JOINT["b_head"]]
    for name in ("b_l_wrist", "b_r_wrist", "b_l_leg", "b_r_leg"):
        assert (joints[:, :, JOINT[name]] - T_head).reshape(-1, 3).std(axis=0).min() > 0.08, name


def test_a_lower_rate_takes_fewer_frames_of_the_same_motion():
    """But for where curves are integrated and how many are drawn: a second has the same frames in both."""
    fine, coarse = (
        motion.sample_motion(np.random.default_rng(3), offsets_of(0), n, fps) for n, fps in ((31, 30), (16, 15))
    )
    assert fine.fps == 30 and coarse.fps == 15
    gaps = np.linalg.norm(fine.world_pose[1][::2] - coarse.world_pose[1], axis=-1)
    assert np.median(gaps) < 0.05


def test_held_out_activities_are_shown_by_test_sequences_alone():
    config = SyntheticConfig(held_out_activities=("kick", "wave"))
    assert set(sequence.activities(config, "test")) == {"kick", "wave"}
    for split in ("train", "validation"):
        assert set(sequence.activities(config, split)) == set(activities.ACTIVITIES) - {"kick", "wave", "behind"}
    assert set(sequence.activities(SyntheticConfig(), "test")) == set(activities.ACTIVITIES) - {"behind"}
    everything = SyntheticConfig(left_out_activities=())
    assert set(sequence.activities(everything, "test")) == set(activities.ACTIVITIES)
    with pytest.raises(ValueError, match=r"left_out_activities.*'jump'"):
        sequence.activities(SyntheticConfig(left_out_activities=("jump",)), "train")
    with pytest.raises(ValueError, match=r"held_out_activities.*'jump'"):
        sequence.activities(SyntheticConfig(held_out_activities=("jump",)), "train")
    with pytest.raises(ValueError, match="hold out fewer"):
        sequence.activities(
            SyntheticConfig(left_out_activities=(), held_out_activities=tuple(activities.ACTIVITIES)), "train"
        )
    seated = SyntheticConfig(frames=20, held_out_activities=("sit",))
    heights = [
        sequence.sample_sequence(seated, split, i).clip.root_position_m[:, 1].min()
        for split in ("test", "train")
        for i in range(6)
    ]
    assert max(heights[:6]) < 0.6 < np.median(heights[6:])


def test_motion_is_deterministic_and_seeded():
    first, again, other = (motion.sample_motion(np.random.default_rng([1, s]), offsets_of(0), 40) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.joint_rotations, again.joint_rotations)
    np.testing.assert_array_equal(first.root_position_m, again.root_position_m)
    assert np.abs(first.joint_rotations - other.joint_rotations).max() > 0.1


@pytest.mark.parametrize("name", sorted(activities.ACTIVITIES))
def test_every_activity_gives_known_curves_of_the_right_shape(name):
    time_s = np.arange(50) / clips.FPS
    posture = activities.neutral(np.random.default_rng(0), time_s)
    changed = activities.ACTIVITIES[name](np.random.default_rng(1), time_s, posture)
    assert set(changed) <= set(posture)
    for key, curve in changed.items():
        assert curve.shape == posture[key].shape, key
        assert np.isfinite(curve).all(), key


def test_a_cut_takes_every_nth_frame(motions):
    part = clips.cut(motions[0], 6, 30, 4)
    assert part.fps == motions[0].fps / 4 and part.num_frames == 6
    np.testing.assert_array_equal(part.joint_rotations, motions[0].joint_rotations[[6, 10, 14, 18, 22, 26]])
