"""The predictor: streams give what clips give, in place, without recompiling; mistakes are named before they cost."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax import checkpoints
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes
from epfv2_jax.testing.fakes import fake_batch

CENTIMETRES = np.array([[1, 1, 1, 100], [1, 1, 1, 100], [1, 1, 1, 100], [1, 1, 1, 1]], np.float32)
PEOPLE, FRAMES, SIZE_HW = 2, 13, (16, 24)  # three windows of 4, and one frame that no chunk length divides
THREE_VIEWS = RigLayout(name="three_views", view_names=("a", "b", "c"), upright_turns=(0, 0, 0))
SMALL = {"encoder": "tiny", "width": 16, "heads": 2, "ffn_width": 16, "head_width": 16, "window": 4}


def make_predictor(**changes) -> Predictor:
    """Returns a predictor whose model has random weights everywhere, as after some training."""
    model = EPFv2(EPFv2Config(**{**SMALL, **changes}), EGOBODY3M, layouts.EGOBODY3M)
    frames = fakes.fake_batch(B=1, T=1, image_hw=SIZE_HW).frames
    return Predictor(model, fakes.random_variables(model, frames), SIZE_HW)


def untrained(image_size_hw=SIZE_HW, layout=layouts.EGOBODY3M, **changes) -> Predictor:
    """Returns a predictor without weights: enough to start a stream."""
    return Predictor(EPFv2(EPFv2Config(**{**SMALL, **changes}), EGOBODY3M, layout), {}, image_size_hw)


def first_views(rig, layout):
    """The rig (B, V) without the views that a layout has not."""
    return jax.tree.map(lambda x: x[:, : layout.num_views], rig)


@pytest.fixture(scope="module")
def predictors():
    return {body: make_predictor(body=body) for body in ("parametric", "keypoints")}


@pytest.fixture(scope="module")
def predictor(predictors):
    return predictors["parametric"]


@pytest.fixture(scope="module")
def frames():
    """Clips of three windows in which views drop out and frames were lost, also more than a window of them."""
    frames = fake_batch(B=PEOPLE, T=FRAMES, image_hw=SIZE_HW).frames
    frames.view_valid[0, 3:6, 1] = frames.view_valid[1, 8] = False
    frames.frame_gap[0, [2, 6]] = 2, 3
    frames.frame_gap[1, [5, 10]] = 2, 30
    return frames


@pytest.fixture(scope="module")
def clips(predictors, frames):
    """Predictions of the bare models for the whole clips."""
    return {body: jax.jit(predictor.model.apply)(predictor.variables, frames) for body, predictor in predictors.items()}


def step(predictor, state, frames, t):
    return predictor.step(
        state, frames.images[:, t], frames.T_world_headset[:, t], frames.view_valid[:, t], frames.frame_gap[:, t]
    )


def stream(predictor, frames, reset_at=None, where=None):
    """Returns the poses, each array (B, T, ...), and the last state of a live stream."""
    state, poses = predictor.start(frames.rig, frames.frame_valid.shape[0]), []
    for t in range(frames.frame_valid.shape[1]):
        if t == reset_at:
            state = predictor.reset(state, where)
        pose, state = step(predictor, state, frames, t)
        poses.append(pose)
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *poses), state


def assert_close(found, expected, atol=2e-5):
    """Compares whatever `expected`, predictions or a pose, has in common with the pose `found`."""
    for name in ("joints_headset_m", "distribution", "body"):
        a, b = getattr(found, name), getattr(expected, name)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@pytest.mark.parametrize("body", ["parametric", "keypoints"])
def test_stream_equals_clip(predictors, clips, frames, body):
    poses, _ = stream(predictors[body], frames)
    assert_close(poses, clips[body])
    assert np.abs(np.diff(poses.joints_headset_m, axis=1)).max() > 1e-3, "a still figure would show nothing"


@pytest.mark.parametrize(("body", "chunk"), [("parametric", 3), ("keypoints", 1), ("keypoints", 50)])
def test_sequence_in_chunks_equals_clip(predictors, clips, frames, body, chunk):
    poses = predictors[body].sequence(frames, chunk=chunk)
    assert poses.joints_headset_m.shape == (PEOPLE, FRAMES, 26, 3)
    assert_close(poses, clips[body])


def test_clip_is_the_model_applied_and_padding_is_finite(predictor, clips, frames):
    assert_close(predictor.clip(frames), clips["parametric"], atol=1e-6)
    valid = np.arange(FRAMES)[None] < np.array([[FRAMES], [7]])
    T_world_headset = np.where(valid[..., None, None], frames.T_world_headset, np.nan)
    gaps = np.where(valid, frames.frame_gap, -1)
    padded = frames.replace(frame_valid=valid, T_world_headset=T_world_headset, frame_gap=gaps)
    for poses in (predictor.clip(padded), predictor.sequence(padded, chunk=3)):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(poses))
        np.testing.assert_allclose(
            poses.joints_headset_m[valid], clips["parametric"].joints_headset_m[valid], atol=2e-5
        )


def test_reset_starts_one_person_anew_and_leaves_the_other(predictor, clips, frames):
    poses, _ = stream(predictor, frames, reset_at=6, where=[True, False])
    np.testing.assert_allclose(poses.joints_headset_m[1], clips["parametric"].joints_headset_m[1], atol=2e-5)
    # The other's second half is a clip of its own, moved to the front; the gap before it means nothing.
    late = jax.tree.map(lambda x: np.roll(x, -6, axis=1), frames.replace(rig=None)).replace(rig=frames.rig)
    late.frame_valid[:, FRAMES - 6 :] = False
    late.frame_gap[:, 0] = 1
    alone = predictor.clip(late).joints_headset_m[0, : FRAMES - 6]
    np.testing.assert_allclose(poses.joints_headset_m[0, 6:], alone, atol=2e-5)
    assert np.abs(alone - clips["parametric"].joints_headset_m[0, 6:]).max() > 1e-4


def test_defaults_mean_all_views_and_no_gap(predictor, frames):
    whole = frames.replace(view_valid=np.ones_like(frames.view_valid), frame_gap=np.ones_like(frames.frame_gap))
    one_rig = jax.tree.map(lambda x: x[0], frames.rig)
    state, told = predictor.start(one_rig, PEOPLE), predictor.start(frames.rig, PEOPLE)
    for t in range(2):
        found, state = predictor.step(state, frames.images[:, t], frames.T_world_headset[:, t])
        expected, told = step(predictor, told, whole, t)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_gaps_and_views_are_seen(predictor, frames):
    all_views, no_gap = np.ones_like(frames.view_valid), np.ones_like(frames.frame_gap)

    def joints(**changes):
        return stream(predictor, frames.replace(**changes))[0].joints_headset_m

    unbroken = joints(view_valid=all_views, frame_gap=no_gap)
    by_gaps = np.abs(joints(view_valid=all_views) - unbroken).max((2, 3)) > 1e-4
    assert not by_gaps[0, :2].any() and by_gaps[0, [2, 3, 6]].all()
    assert not by_gaps[1, :5].any() and by_gaps[1, [5, 10]].all()
    by_views = np.abs(joints(frame_gap=no_gap) - unbroken).max((2, 3)) > 1e-4
    assert not by_views[0, :3].any() and by_views[0, [3, 4, 5, 6]].all()
    assert not by_views[1, :8].any() and by_views[1, [8, 9]].all()


def test_world_coordinates(predictor, frames):
    pose, _ = step(predictor, predictor.start(frames.rig, PEOPLE), frames, 0)
    T = frames.T_world_headset[:, 0].astype(np.float64)
    joints = np.einsum("bij,bnj->bni", T[:, :3, :3], pose.joints_headset_m) + T[:, None, :3, 3]
    np.testing.assert_allclose(pose.joints_world_m, joints, atol=1e-6)
    factor = np.einsum("bij,bnjk->bnik", T[:, :3, :3], pose.distribution.cholesky_m)
    np.testing.assert_allclose(pose.covariance_world_m2, factor @ factor.swapaxes(-1, -2), atol=1e-7)
    late = predictor.clip(frames)
    np.testing.assert_allclose(late.joints_world_m[:, 0], joints, atol=2e-5)
    assert late.covariance_world_m2.shape == (PEOPLE, FRAMES, 26, 3, 3)


def test_a_stream_compiles_once(predictor, frames, caplog):
    """Also across a reset, a second stream, host arrays and device arrays, and other views and gaps."""
    state = predictor.start(frames.rig, PEOPLE)
    _, state = step(predictor, state, frames, 0)
    state = predictor.reset(state, np.array([True, True]))
    in_device_memory = jax.device_put(frames)
    second = predictor.start(frames.rig, PEOPLE)
    caplog.clear()
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        for t in range(4):
            pose, state = step(predictor, state, frames, t)
            state = predictor.reset(state, np.array([t == 2, False]))
            _, second = predictor.step(
                second, in_device_memory.images[:, 0], frames.T_world_headset[:, t].astype(float)
            )
        compiled = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
        assert not [message for message in compiled if "_step" in message or "_reset" in message], compiled
        jax.jit(lambda x: x + 1)(pose.joints_headset_m)
    assert any("Compiling" in r.getMessage() for r in caplog.records), "a compilation is not logged as we believe"


def test_the_cache_is_given_away_and_stays_where_it_is(predictor, frames):
    state = predictor.start(frames.rig, PEOPLE)
    for move in (
        lambda s: step(predictor, s, frames, 0)[1],
        lambda s: step(predictor, s, frames, 1)[1],
        lambda s: predictor.reset(s, np.array([True, False])),
    ):
        places = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.stream.caches)}
        after = move(state)
        assert all(x.is_deleted() for x in jax.tree.leaves(state.stream))
        assert not any(x.is_deleted() for x in jax.tree.leaves((after, state.rig)))
        assert {x.unsafe_buffer_pointer() for x in jax.tree.leaves(after.stream.caches)} == places
        state = after


def test_a_used_state_is_refused_and_a_copy_goes_another_way(predictor, frames):
    state = predictor.start(frames.rig, PEOPLE)
    copy = jax.tree.map(jnp.copy, state)
    first, _ = step(predictor, state, frames, 0)
    with pytest.raises(ValueError, match=r"state: was used up .* go on with the state that it returned"):
        step(predictor, state, frames, 1)
    with pytest.raises(ValueError, match="state: was used up"):
        predictor.reset(state, np.array([True, False]))
    again, _ = step(predictor, copy, frames, 0)
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_arrays_may_be_overwritten_as_soon_as_the_call_is_back(predictor, frames):
    """As a camera driver does with its buffers."""
    expected, _ = step(predictor, predictor.start(frames.rig, PEOPLE), frames, 0)
    # An aligned array is one that a compiled call reads where it lies.
    images, rig = frames.images[:, 0], jax.tree.map(np.copy, frames.rig)
    memory = np.empty(images.size + 64, np.uint8)
    buffer = memory[-memory.ctypes.data % 64 :][: images.size].reshape(images.shape)
    state = predictor.start(rig, PEOPLE)
    rig.T_cam_headset[:] = np.nan
    for _ in range(10):  # who comes first is chance
        buffer[:] = images
        found, _ = predictor.step(
            jax.tree.map(jnp.copy, state), buffer, frames.T_world_headset[:, 0], frames.view_valid[:, 0]
        )
        buffer[:] = 0
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def spoiled(T_world_headset, value, place):
    T = T_world_headset.copy()
    T[place] = value
    return T


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"images": a["images"][0]}, r"images: expected \(2, 4, 16, 24\) uint8.*takes 4 images of 16x24"),
        (lambda a: {"images": a["images"][:, :3]}, r"images: .*got \(2, 3, 16, 24\).*takes 4 images"),
        (lambda a: {"images": a["images"][..., :16]}, r"images: .*got \(2, 4, 16, 16\).*images of 16x24"),
        (lambda a: {"images": a["images"] / np.float32(255)}, "images: .*uint8, got .*float32"),
        (lambda a: {"images": a["images"].tolist()}, "images: expected an array .* got list"),
        (lambda a: {"T_world_headset": a["T_world_headset"][0]}, r"T_world_headset: expected \(2, 4, 4\)"),
        (
            lambda a: {"T_world_headset": spoiled(a["T_world_headset"], np.nan, (1, 0, 3))},
            r"T_world_headset of stream 1: .*not finite.*nan.*leave the frame out",
        ),
        (
            lambda a: {"T_world_headset": a["T_world_headset"] * np.float32(2)},
            r"T_world_headset of stream 0: the bottom row",
        ),
        (
            lambda a: {"T_world_headset": spoiled(a["T_world_headset"], 3.0, (0, 0, 0))},
            r"T_world_headset of stream 0: the rotation part is not orthonormal.*3\.0",
        ),
        (lambda a: {"view_valid": np.ones((2, 3), bool)}, r"view_valid: expected \(2, 4\)"),
        (lambda a: {"view_valid": np.ones((2, 4), np.int32)}, "view_valid: .*bool, got .*int32"),
        (lambda a: {"frame_gap": 0}, "frame_gap of stream 0: 0, must be at least 1"),
        (lambda a: {"frame_gap": np.array([1, -2])}, "frame_gap of stream 1: -2"),
        (lambda a: {"frame_gap": 2**31}, "frame_gap of stream 0: 2147483648"),
        (lambda a: {"frame_gap": 1.5}, "frame_gap: .*integer, got .*float64"),
        (lambda a: {"frame_gap": np.ones(3, int)}, r"frame_gap: expected \(2,\) integer"),
    ],
)
def test_bad_frames_are_refused_and_the_state_stands(predictor, frames, change, message):
    state = predictor.start(frames.rig, PEOPLE)
    arguments = {"images": frames.images[:, 0], "T_world_headset": frames.T_world_headset[:, 0]}
    with pytest.raises(ValueError, match=message):
        predictor.step(state, **{**arguments, **change(arguments)})
    assert not state.stream.started.is_deleted()


@pytest.mark.parametrize(
    "changes",
    [{"window": 5}, {"width": 32}, {"depth": 2}, {"temporal": False}, {"dtype": "bfloat16"}, {"layout": THREE_VIEWS}],
)
def test_a_state_of_another_model_is_refused(predictor, frames, changes):
    other = untrained(**changes)
    rig = first_views(frames.rig, other.model.layout)
    with pytest.raises(ValueError, match=r"state: belongs to another model.*begin with start"):
        step(predictor, other.start(rig, PEOPLE), frames, 0)


def test_bad_rigs_and_batches_are_refused(predictor, frames):
    rig = frames.rig
    camera = rig.cameras
    flat = spoiled(rig.T_cam_headset, 0.0, (0, 2, 1))
    blind = camera.replace(focal_px=np.full_like(camera.focal_px, np.nan))
    for bad, message in (
        (jax.tree.map(lambda x: x[:, :3], rig), r"rig\.cameras\.focal_px: expected \(2, 4, 2\).*the model has 4 views"),
        (jax.tree.map(lambda x: x[:1], rig), r"rig\.cameras\.focal_px: .*got \(1, 4, 2\)"),
        (rig.replace(T_cam_headset=flat), r"rig\.T_cam_headset of camera 2: the rotation part"),
        (rig.replace(cameras=blind), r"rig\.cameras\.focal_px: .*not finite"),
        (
            rig.replace(cameras=camera.replace(size_px=camera.size_px * np.float32(2))),
            r"size_px: images of 32x48 .* 4 cameras, the model takes 16x24, as in training; resize",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.start(bad, PEOPLE)
    with pytest.raises(ValueError, match="batch: must be at least 1, got 0"):
        predictor.start(rig, 0)
    with pytest.raises(ValueError, match=r"where: expected \(2,\) bool"):
        predictor.reset(predictor.start(rig, PEOPLE), np.ones(3, bool))


def test_objects_of_a_wrong_type_are_refused_by_name(predictor, frames):
    rig, camera = frames.rig, frames.rig.cameras
    for bad in (
        *(None, {}, "rig", camera, [rig], rig.T_cam_headset),
        *(rig.replace(cameras=bad) for bad in (None, rig, {"focal_px": 1}, "fisheye")),
        *(rig.replace(T_cam_headset=bad) for bad in (None, "eye", 1.0, [[1.0], [1.0, 2.0]], np.array([None]))),
        *(rig.replace(cameras=camera.replace(focal_px=bad)) for bad in (None, "long", {}, [1.0, 2.0])),
    ):
        with pytest.raises(ValueError, match=r"^rig"):
            predictor.start(bad, PEOPLE)
        if not isinstance(bad, type(rig)):
            with pytest.raises(ValueError, match=r"^rig"):
                predictor.clip(frames.replace(rig=bad))
    for batch in (None, "2", 1.5, True, [2]):
        with pytest.raises(ValueError, match="batch: expected a whole number"):
            predictor.start(rig, batch)
        with pytest.raises(ValueError, match="chunk: expected a whole number"):
            predictor.sequence(frames, batch)
    state, images, T_world_headset = predictor.start(rig, PEOPLE), frames.images[:, 0], frames.T_world_headset[:, 0]
    for bad in (None, {}, rig, state.stream):
        with pytest.raises(ValueError, match="state: expected what start, reset or the last step returned"):
            predictor.step(bad, images, T_world_headset)
        with pytest.raises(ValueError, match="state: expected"):
            predictor.reset(bad, np.ones(PEOPLE, bool))
        with pytest.raises(ValueError, match=r"frames: expected epfv2_jax\.structs\.Frames"):
            predictor.clip(bad)
    for bad in (state.replace(rig=None), state.replace(stream=1.0), state.replace(stream="x")):
        with pytest.raises(ValueError, match=r"^state"):
            predictor.step(bad, images, T_world_headset)
    for pose in (None, "pose", [[1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"^T_world_headset"):
            predictor.step(state, images, pose)


def test_rigs_in_another_unit_direction_or_size_are_refused_by_the_cause(predictor, frames):
    rig = frames.rig
    for bad, message in (
        (rig.replace(T_cam_headset=rig.T_cam_headset * CENTIMETRES), r"from the headset; .* in cm or mm"),
        (rig.replace(T_cam_headset=np.linalg.inv(rig.T_cam_headset)), "or are .*extrinsics .*inverted"),
        (
            rig.replace(cameras=rig.cameras.replace(center_px=10 * rig.cameras.center_px)),
            r"the images \(24x16\) have been resized, cropped or turned against calibration",
        ),
    ):
        with pytest.raises(ValueError, match=rf"rig: \w+: .*{message}|rig: \w+ lies .*{message}"):
            predictor.start(bad, PEOPLE)
        with pytest.raises(ValueError, match=message):
            predictor.clip(frames.replace(rig=bad))


def test_poses_and_images_in_another_unit_are_refused_by_the_cause(predictor, frames):
    far = frames.T_world_headset * CENTIMETRES
    with pytest.raises(ValueError, match="above the floor at y = 0; is it in cm or mm"):
        predictor.clip(frames.replace(T_world_headset=far))
    state = predictor.start(frames.rig, PEOPLE)
    with pytest.raises(ValueError, match="above the floor at y = 0; is it in cm or mm"):
        predictor.step(state, frames.images[:, 0], far[:, 0])

    as_floats = frames.images.astype(np.float32)
    with pytest.raises(ValueError, match=r"intensities from 0 to 25\d, .* takes 0 to 1: divide by 255"):
        predictor.clip(frames.replace(images=as_floats))
    holes = as_floats / 255
    holes[0, 0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="or such that are not finite"):
        predictor.clip(frames.replace(images=holes))
    hidden = frames.view_valid.copy()
    hidden[0, 0, 0] = False  # what a camera that delivered nothing holds does not matter
    predictor.clip(frames.replace(images=holes, view_valid=hidden))


def test_without_a_known_size_the_rig_tells_it(frames):
    free = untrained(image_size_hw=None)
    state = free.start(frames.rig, PEOPLE)
    assert state.image_size_hw == SIZE_HW
    with pytest.raises(ValueError, match="images of 16x24"):
        free.step(state, np.zeros((PEOPLE, 4, 20, 20), np.uint8), frames.T_world_headset[:, 0])
    sizes = frames.rig.cameras.size_px.copy()
    sizes[:, 1] *= 2
    with pytest.raises(ValueError, match=r"images of 16x24, 32x48 .*one size for all"):
        free.start(frames.rig.replace(cameras=frames.rig.cameras.replace(size_px=sizes)), PEOPLE)


def test_bad_clips_are_refused(predictor, frames):
    islands = frames.frame_valid.copy()
    islands[1, 4] = False
    late = spoiled(frames.T_world_headset, np.inf, (1, 7, 0, 0))
    gaps = frames.frame_gap.copy()
    gaps[0, 3] = 0
    for bad, message in (
        (frames.replace(frame_valid=islands), "frame_valid: a valid frame follows padding"),
        (frames.replace(T_world_headset=late), "T_world_headset of clip, frame 1, 7: .*not finite"),
        (frames.replace(frame_gap=gaps), "frame_gap of clip, frame 0, 3: 0"),
        (frames.replace(images=frames.images[:, :, :2]), r"images: expected \(2, 13, 4, 16, 24\)"),
        (frames.replace(images=frames.images.astype(np.int32)), "images: .*got .*int32.*uint8 or float32"),
        (frames.replace(frame_valid=frames.frame_valid[:, :0]), "frame_valid: .*at least one frame"),
    ):
        for call in (predictor.clip, predictor.sequence):
            with pytest.raises(ValueError, match=message):
                call(bad)
    with pytest.raises(ValueError, match="chunk: must be at least 1, got 0"):
        predictor.sequence(frames, chunk=0)


def test_models_without_memory_or_uncertainty_stream_too(frames):
    """A window of one frame has caches of no size; no temporal attention has none at all."""
    for changes in ({"window": 1}, {"temporal": False, "uncertainty": False}):
        predictor = make_predictor(body="keypoints", **changes)
        state = predictor.start(frames.rig, PEOPLE)
        for t in range(2):
            pose, state = step(predictor, state, frames, t)
        assert (pose.distribution is None) == (pose.covariance_world_m2 is None) == ("uncertainty" in changes)
        assert np.isfinite(pose.joints_world_m).all()


def test_from_checkpoint(tmp_path, predictor, clips, frames):
    about = checkpoints.About(
        experiment={"model": config_lib.to_mapping(predictor.model.config)},
        skeleton=predictor.model.skeleton,
        layout=predictor.model.layout,
        image_size_hw=SIZE_HW,
    )
    writer = checkpoints.CheckpointWriter(tmp_path, about)
    writer.save(1, {"step": jnp.zeros((), jnp.int32)}, predictor.variables, {"next_step": 1})
    writer.close()
    loaded = Predictor.from_checkpoint(tmp_path)
    assert (loaded.num_views, loaded.image_size_hw) == (4, SIZE_HW)
    assert_close(loaded.clip(frames), clips["parametric"], atol=1e-6)
    with pytest.raises(ValueError, match="no checkpoint here"):
        Predictor.from_checkpoint(tmp_path / "elsewhere")
