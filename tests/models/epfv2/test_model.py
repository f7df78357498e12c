"""The whole model: streaming, causality, masks, switches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from epfv2_jax.geometry import transforms
from epfv2_jax.geometry.layout import EGOBODY3M as LAYOUT_OF_FOUR
from epfv2_jax.geometry.skeleton import EGOBODY3M, Skeleton
from epfv2_jax.inference import streams
from epfv2_jax.models import base
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes

PEOPLE, FRAMES = 2, 30  # three windows of 10
KEYPOINTS = {"body": "keypoints"}  # the body that compiles fastest, where the body does not matter


def assert_close(a, b, atol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def clip(tiny, frames, **changes):
    """Returns predictions and state of the whole clip in one step."""
    model, variables, step = tiny(**changes)
    return step(variables, frames, model.initial_state(frames.frame_valid.shape[0]))


@pytest.fixture(scope="module")
def frames(helpers):
    """A clip of three windows with a view that drops out and frames that were lost."""
    frames = helpers.make_frames(PEOPLE, FRAMES)
    view_valid = frames.view_valid.copy()
    view_valid[0, 3:9, 1] = view_valid[1, 12, :] = False
    frame_gap = frames.frame_gap.copy()
    frame_gap[1, [4, 17]] = 2, 30
    return frames.replace(view_valid=view_valid, frame_gap=frame_gap)


# Chunks of 1, 2 and 5 frames: tests/models/test_conformance.py; of keypoints: tests/inference/test_predictor.py.
def test_stream_equals_clip(tiny, helpers, frames):
    """In chunks of 3 frames, and of more than a window."""
    whole, last = clip(tiny, frames)
    model, variables, step = tiny()
    streamed, state = jax.jit(lambda v, f: streams.scan_frames(model, v, f, chunk=3))(variables, frames)
    assert_close(streamed, whole)
    assert_close(state, last)
    state, halves = model.initial_state(PEOPLE), []
    for start in (0, 15):
        predictions, state = step(variables, helpers.time_slice(frames, start, start + 15), state)
        halves.append(predictions)
    assert_close(jax.tree.map(lambda *x: np.concatenate(x, axis=1), *halves), whole)
    assert_close(state, last)
    movement = np.abs(np.diff(whole.joints_headset_m, axis=1)).max()
    assert movement > 1e-3, "outputs hardly differ between frames: the comparison would show nothing"


def test_model_sees_the_past_of_the_stream(tiny, helpers, frames):
    """Without this, equality of stream and clip could come from a model without memory."""
    whole, _ = clip(tiny, frames)
    second_half, _ = clip(tiny, helpers.time_slice(frames, 15, 30))
    assert np.abs(second_half.joints_headset_m[0, 2] - whole.joints_headset_m[0, 17]).max() > 1e-5


def test_reset_of_one_person_leaves_the_others_alone(tiny, helpers, frames):
    model, variables, step = tiny()
    halves = helpers.time_slice(frames, 0, 15), helpers.time_slice(frames, 15, 30)
    empty = model.initial_state(PEOPLE)
    _, state = step(variables, halves[0], empty)
    after_reset, _ = step(variables, halves[1], base.reset(model, state, np.array([True, False])))
    fresh, _ = step(variables, halves[1], empty)
    gone_on, _ = step(variables, halves[1], state)
    assert_close(jax.tree.map(lambda x: x[0], after_reset), jax.tree.map(lambda x: x[0], fresh), atol=0)
    assert_close(jax.tree.map(lambda x: x[1], after_reset), jax.tree.map(lambda x: x[1], gone_on), atol=0)


def test_padding_of_any_content_changes_nothing(tiny, helpers, frames):
    model, variables, step = tiny()
    empty = model.initial_state(PEOPLE)
    full = helpers.time_slice(frames, 0, 15)
    expected, _ = step(variables, full, empty)
    valid = np.ones((PEOPLE, 15), bool)
    valid[0, 6:] = False
    garbage = full.replace(
        frame_valid=valid,
        images=np.where(valid[..., None, None, None], full.images, 255 - full.images),
        T_world_headset=np.where(valid[..., None, None], full.T_world_headset, np.nan),
        frame_gap=np.where(valid, full.frame_gap, -5),
    )
    padded, state = step(variables, garbage, empty)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[valid], b[valid], atol=1e-6), padded, expected)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((padded, state)))
    # The stream goes on where its valid frames ended.
    rest = helpers.time_slice(frames, 6, 21)
    resumed, _ = step(variables, rest, state)
    whole, _ = clip(tiny, frames)
    assert_close(resumed.joints_headset_m[0], whole.joints_headset_m[0, 6:21])


def test_a_view_that_is_not_valid_is_not_seen(tiny, helpers, frames):
    short = helpers.time_slice(frames, 0, 15)
    before, _ = clip(tiny, short)
    images = short.images.astype(np.float32) / 255
    images[~short.view_valid] = np.nan
    after, _ = clip(tiny, short.replace(images=images))
    assert_close(after, before, atol=1e-5)  # float images in [0, 1] are the uint8 ones, too
    images[0, 0, 0] = 0.0
    seen, _ = clip(tiny, short.replace(images=images))
    assert np.abs(seen.joints_headset_m - after.joints_headset_m)[0, 0].max() > 1e-4


def test_what_lies_under_a_view_mask_never_enters_the_encoder(tiny, helpers):
    """Masking the result alone would let a NaN into the gradients."""
    frames = helpers.make_frames(1, 2)
    images = np.full(frames.images.shape, np.nan, np.float32)
    frames = frames.replace(images=images, view_valid=np.zeros_like(frames.view_valid))
    model, variables, _ = tiny(**KEYPOINTS)

    @jax.jit
    def encoded(frames):
        wanted = lambda module, method: module.name == "encoder" and method == "__call__"  # noqa: E731
        return model.apply(variables, frames, capture_intermediates=wanted, mutable=["intermediates"])[1]

    maps = jax.tree.leaves(encoded(frames))
    assert maps and all(np.isfinite(m).all() for m in maps)


def test_motion_is_told_from_the_second_frame_of_a_stream_on(tiny, helpers, frames):
    model, variables, step = tiny()
    first = helpers.time_slice(frames, 0, 15)
    state = jax.device_get(model.initial_state(PEOPLE))
    T_world_headset = state.T_world_headset.copy()
    T_world_headset[:, 0, 3] += 0.1
    elsewhere = state.replace(T_world_headset=T_world_headset)
    assert_close(step(variables, first, elsewhere), step(variables, first, state), atol=0)
    started = np.ones(PEOPLE, bool)
    moved, still = (step(variables, first, s.replace(started=started))[0].joints_headset_m for s in (elsewhere, state))
    assert np.abs(moved - still)[:, 0].max() > 1e-4


def test_no_frame_sees_a_later_one_and_the_window_ends(tiny, helpers):
    window, num_frames = 3, 8
    model, variables, _ = tiny(window=window, body="keypoints")
    frames = helpers.make_frames(1, num_frames)
    images = frames.images.astype(np.float32) / 255

    @jax.jit
    def sensitivity(t):
        def out(images):
            predictions = model.apply(variables, frames.replace(images=images))
            return (predictions.joints_headset_m.sum((2, 3)) + predictions.distribution.cholesky_m.sum((2, 3, 4)))[0, t]

        return jnp.abs(jax.grad(out)(images)).max((0, 2, 3, 4))

    reach = 2 * (window - 1)  # of two temporal layers in a row
    for t in range(num_frames):
        seen = np.asarray(sensitivity(t)) > 0
        np.testing.assert_array_equal(seen, [t - reach <= s <= t for s in range(num_frames)])


def test_history_is_no_longer_than_needed(tiny, helpers):
    """Where every other frame is lost, the headset's motion reaches as far as a temporal layer does."""
    model, variables, step = tiny(window=3, body="keypoints")
    frames = helpers.make_frames(1, 6)
    frames = frames.replace(frame_gap=np.full((1, 6), 2, np.int32))
    state = model.initial_state(1)
    expected, _ = step(variables, frames, state)
    reached = []
    for s in range(6):
        T_world_headset = frames.T_world_headset.copy()
        T_world_headset[:, s, 0, 3] += 0.1
        other, _ = step(variables, frames.replace(T_world_headset=T_world_headset), state)
        if np.abs(other.joints_headset_m - expected.joints_headset_m)[:, -1].max() > 1e-5:
            reached.append(2 * (5 - s))
    assert max(reached) == model.history - 1


@pytest.mark.slow
def test_initial_prediction_stands_upright_below_a_nodding_headset(helpers):
    """Ablation 4 is not told the headset's pose: there the rest pose nods with the head."""
    frames = helpers.make_frames(1, 1)
    T_world_headset = np.eye(4, dtype=np.float32)
    T_world_headset[:3, :3] = Rotation.from_euler("YXZ", [1.0, 0.6, 0.2]).as_matrix()
    frames = frames.replace(T_world_headset=jnp.asarray(T_world_headset)[None, None])
    rest = EGOBODY3M.rest_joints_headset_m()
    for auxiliary_input in (True, False):
        model = helpers.tiny_model(auxiliary_input=auxiliary_input)
        predictions, _ = jax.jit(model.init_with_output)(jax.random.key(0), frames)
        joints_world_m = predictions.joints_headset_m[0, 0] @ T_world_headset[:3, :3].T
        nodded = np.abs(joints_world_m - rest @ Rotation.from_euler("Y", 1.0).as_matrix().T).max()
        assert (nodded < 0.1) if auxiliary_input else (nodded > 0.3)


def test_initial_prediction_is_the_rest_pose(helpers):
    model = helpers.tiny_model()
    predictions, _ = jax.jit(model.init_with_output)(jax.random.key(0), helpers.make_frames(1, 1))
    rest = EGOBODY3M.rest_joints_headset_m()
    np.testing.assert_allclose(predictions.joints_headset_m[0, 0], rest, atol=0.05)
    np.testing.assert_allclose(predictions.intermediate_joints_m["proposal"][0, 0], rest, atol=0.05)
    np.testing.assert_allclose(
        predictions.distribution.cholesky_m[0, 0], np.tile(0.1 * np.eye(3), (26, 1, 1)), atol=0.01
    )


@functools.cache
def shapes(model, make_frames):
    """Returns the parameters' shapes by path, and the shapes of the outputs: nothing is computed."""
    frames = make_frames(1, 2)
    predictions, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), frames)
    flat = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in flat}, predictions


@pytest.mark.parametrize(
    ("changes", "removed", "added"),
    [
        ({"body": "parametric"}, (), ()),
        ({"temporal": False}, ("proposal_decoder/temporal_0/", "refinement_decoder/temporal_0/"), ()),
        ({"projection_conditioning": False}, ("projection_hidden/", "projection_out/"), ()),
        ({"auxiliary_input": False}, ("query/hidden/", "query/out/"), ("query/token",)),
        ({"uncertainty": False}, ("uncertainty_head/",), ()),
        (
            {"temporal_position": "query"},
            ("proposal_decoder/temporal_0/", "refinement_decoder/temporal_0/"),
            ("query_temporal/",),
        ),
    ],
)
def test_a_switch_changes_its_part_and_no_other(helpers, changes, removed, added):
    full, full_out = shapes(helpers.tiny_model(**KEYPOINTS), helpers.make_frames)
    ablated, out = shapes(helpers.tiny_model(**{**KEYPOINTS, **changes}), helpers.make_frames)
    gone, new = set(full) - set(ablated), set(ablated) - set(full)
    assert gone == {p for p in full if p.startswith(removed)} and bool(gone) == bool(removed)
    assert new == {p for p in ablated if p.startswith(added)} and bool(new) == bool(added)
    resized = {p.split("/")[0] for p in set(full) & set(ablated) if full[p] != ablated[p]}
    assert resized == ({"proposal_head", "refinement_head"} if "body" in changes else set())
    assert (out.body is None) == ("body" not in changes) and (out.distribution is None) == ("uncertainty" in changes)
    assert out.joints_headset_m.shape == full_out.joints_headset_m.shape == (1, 2, 26, 3)


def test_number_of_caches_follows_the_switches(helpers):
    for changes, number in (
        ({}, 2),
        ({"depth": 2}, 4),
        ({"temporal": False}, 0),
        ({"temporal_position": "query", "depth": 2}, 1),
    ):
        model = helpers.tiny_model(**KEYPOINTS, **changes)
        frames = helpers.make_frames(1, 2)
        state = model.initial_state(1)
        init = lambda key, model=model, frames=frames, state=state: model.init_with_output(  # noqa: E731
            key, frames, state, method="step"
        )
        (_, next_state), _ = jax.eval_shape(init, jax.random.key(0))
        assert len(state.caches) == number
        assert jax.tree.map(lambda x: (x.shape, x.dtype), next_state) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )


def test_deeper_model_with_early_temporal_block_streams_too(tiny, frames, helpers):
    short = helpers.time_slice(frames, 0, 15)
    changes = {**KEYPOINTS, "temporal_position": "query", "depth": 2, "auxiliary_input": False}
    whole, _ = clip(tiny, short, **changes)
    model, variables, step = tiny(**changes)
    state, out = model.initial_state(PEOPLE), []
    for start in range(0, 15, 5):
        predictions, state = step(variables, helpers.time_slice(short, start, start + 5), state)
        out.append(predictions.joints_headset_m)
    assert_close(np.concatenate(out, axis=1), whole.joints_headset_m)


def test_the_pose_before_a_clip_stands_for_the_frame_before_it(tiny, helpers):
    """To a model without memory the frames before a clip are nothing but the pose of the last of them."""
    frames = helpers.make_frames(PEOPLE, 5)
    changes = {**KEYPOINTS, "temporal": False}
    first, later = (helpers.time_slice(frames, start, start + 4) for start in (0, 1))
    whole, _ = clip(tiny, first, **changes)
    cut, _ = clip(tiny, later, **changes)
    told, _ = clip(tiny, later.replace(T_world_before=frames.T_world_headset[:, 0]), **changes)
    assert_close(told.joints_headset_m[:, :-1], whole.joints_headset_m[:, 1:])
    assert np.abs(cut.joints_headset_m[:, 0] - whole.joints_headset_m[:, 1]).max() > 1e-4


def test_auxiliary_input_is_the_only_way_in_for_the_headset_pose(tiny, helpers):
    frames = helpers.make_frames(PEOPLE, 5)
    tilt = np.array([[1, 0, 0, 0], [0, 0.6, -0.8, 0], [0, 0.8, 0.6, 0], [0, 0, 0, 1]], np.float32)
    tilted = frames.replace(T_world_headset=frames.T_world_headset @ tilt)
    told, told_tilted = clip(tiny, frames, **KEYPOINTS)[0], clip(tiny, tilted, **KEYPOINTS)[0]
    assert np.abs(told.joints_headset_m - told_tilted.joints_headset_m).max() > 1e-4
    changes = {**KEYPOINTS, "temporal_position": "query", "depth": 2, "auxiliary_input": False}
    assert_close(clip(tiny, frames, **changes)[0], clip(tiny, tilted, **changes)[0], atol=0)


def test_refinement_teaches_the_proposal_through_the_projection(tiny, helpers):
    frames = helpers.make_frames(1, 1)
    for conditioned in (True, False):
        model, variables, _ = tiny(body="keypoints", projection_conditioning=conditioned)

        def offset(head, model=model, variables=variables):
            params = {**variables["params"], "proposal_head": head}
            predictions = model.apply({**variables, "params": params}, frames)
            return jnp.square(predictions.joints_headset_m - predictions.intermediate_joints_m["proposal"]).sum()

        gradients = jax.jit(jax.grad(offset))(variables["params"]["proposal_head"])
        # Of the refinement's offset, not of its sum with the proposal. In the sum p - p some rounding is left.
        largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients))
        assert (largest > 1e-4) == conditioned, largest


def test_keypoints_behind_the_cameras_stay_finite(tiny, helpers):
    frames = helpers.make_frames(1, 1)
    model, variables, _ = tiny()
    half_turn = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)
    behind = frames.replace(rig=frames.rig.replace(T_cam_headset=half_turn @ frames.rig.T_cam_headset))

    @jax.jit
    def loss(params, frames):
        predictions = model.apply({**variables, "params": params}, frames)
        return jnp.square(predictions.joints_headset_m).sum(), predictions.intermediate_joints_m["proposal"]

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, proposal), front = gradient(variables["params"], frames)
    assert (np.asarray(jax.jit(transforms.apply)(behind.rig.T_cam_headset, proposal)[..., 2]) < 0).any()
    (value, _), back = gradient(variables["params"], behind)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, front, back)))


def test_bfloat16_computes_and_answers_in_float32(tiny, helpers):
    frames = helpers.make_frames(PEOPLE, 5)
    expected, _ = clip(tiny, frames, **KEYPOINTS)
    model = helpers.tiny_model(**KEYPOINTS, dtype="bfloat16")
    _, variables, _ = tiny(**KEYPOINTS)
    state = model.initial_state(PEOPLE)
    predictions, state = jax.jit(lambda v, f, s: model.apply(v, f, s, method="step"))(variables, frames, state)
    assert {x.dtype for x in jax.tree.leaves(predictions)} == {jnp.dtype("float32")}
    assert state.caches[0].keys.dtype == jnp.bfloat16
    difference = np.abs(predictions.joints_headset_m - expected.joints_headset_m).max()
    # Eight bits of mantissa through some ten layers: a few percent of what the heads move the rest pose by.
    moved = np.abs(expected.joints_headset_m - EGOBODY3M.rest_joints_headset_m()[None, None]).max()
    assert 0 < difference < 0.1 * moved, (difference, moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet19"}, "encoder: 'resnet19' is not one of 'resnet18'"),
        ({"width": 100, "heads": 8}, "width: 100"),
        ({"body": "blobs"}, "body: 'blobs' is not one of 'keypoints', 'parametric'"),
        ({"degrees_of_freedom": 0.0}, "degrees_of_freedom"),
        ({"window": float("inf")}, "window"),
        ({"window": 0}, "window"),
        ({"dtype": "float16"}, "dtype"),
        ({"image_std": 0.0}, "image_std"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EPFv2Config(**changes)


def test_wrong_number_of_views_and_chunks_are_refused(tiny, helpers):
    frames = helpers.make_frames(1, 5)
    model, variables, _ = tiny()
    four = EPFv2(model.config, EGOBODY3M, LAYOUT_OF_FOUR)
    with pytest.raises(ValueError, match="frames: 2 views, but the model was built for the 4 views of 'egobody3m'"):
        jax.eval_shape(four.init, jax.random.key(0), frames)
    with pytest.raises(ValueError, match="chunk: 2 does not divide the 5 frames"):
        streams.scan_frames(model, variables, frames, chunk=2)


def chain(num_joints: int) -> Skeleton:
    """Returns a skeleton whose joints hang on one another."""
    return Skeleton(
        name="chain",
        joint_names=tuple(f"joint_{j}" for j in range(num_joints)),
        parents=tuple(range(-1, num_joints - 1)),
        mirror=tuple(range(num_joints)),
        root_between=(0,),
        groups=(),
        rest_offsets_m=((0.0, 0.01, 0.0),) * num_joints,
        rest_root_headset_m=(0.0, -0.6, 0.0),
    )


def test_another_number_of_keypoints(helpers):
    model = EPFv2(helpers.tiny_config(body="keypoints"), chain(40), fakes.TWO_VIEWS)
    parameters, out = shapes(model, helpers.make_frames)
    assert out.joints_headset_m.shape == (1, 2, 40, 3) and out.distribution.cholesky_m.shape == (1, 2, 40, 3, 3)
    few, _ = shapes(helpers.tiny_model(**KEYPOINTS), helpers.make_frames)
    decoders = [{p: s for p, s in x.items() if "decoder" in p} for x in (parameters, few)]
    assert decoders[0] == decoders[1]
