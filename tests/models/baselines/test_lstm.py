"""The LSTM baseline beyond what holds for every model: dropped frames, the headset's pose, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.baselines.lstm import LSTM, LSTMConfig
from epfv2_jax.testing import fakes

PEOPLE, FRAMES = 2, 8


@functools.cache
def small(**changes):
    """Returns a small model and its variables."""
    sizes = {"encoder": "tiny", "view_width": 8, "width": 16, "head_width": 16, **changes}
    return LSTM(LSTMConfig(**sizes), EGOBODY3M, fakes.TWO_VIEWS)


@pytest.fixture(scope="module")
def frames(helpers):
    return helpers.make_frames(PEOPLE, FRAMES)


@functools.cache
def compiled(**changes):
    model = small(**changes)
    return jax.jit(lambda variables, frames: model.apply(variables, frames).joints_headset_m)


def joints(frames, **changes):
    """Returns the joints (B, T, J, 3) that the model of these settings predicts for clips."""
    return np.asarray(compiled(**changes)(fakes.random_variables(small(**changes), frames), frames))


def with_gap(frames, at, gap):
    frame_gap = frames.frame_gap.copy()
    frame_gap[:, at] = gap
    return frames.replace(frame_gap=frame_gap)


def test_after_a_long_gap_the_stream_begins_anew(frames, helpers):
    again = joints(helpers.time_slice(with_gap(frames, 3, 6), 3, FRAMES), longest_gap=5)
    np.testing.assert_allclose(joints(with_gap(frames, 3, 6), longest_gap=5)[:, 3:], again, atol=1e-6)
    assert np.abs(joints(with_gap(frames, 3, 5), longest_gap=5)[:, 3:] - again).max() > 1e-3


def test_a_short_gap_is_an_input_even_where_the_headset_rests(frames):
    still = frames.replace(T_world_headset=np.tile(frames.T_world_headset[:, :1], (1, FRAMES, 1, 1)))
    moved = np.abs(joints(with_gap(still, 3, 4)) - joints(still)).max((0, 2, 3))
    assert moved[:3].max() == 0 and moved[3:].min() > 1e-4


def test_the_headset_pose_is_an_input_only_where_the_settings_say_so(frames):
    tilt = np.array([[1, 0, 0, 0], [0, 0.6, -0.8, 0], [0, 0.8, 0.6, 0], [0, 0, 0, 1]], np.float32)
    tilted = frames.replace(T_world_headset=frames.T_world_headset @ tilt)
    assert np.abs(joints(tilted) - joints(frames)).max() > 1e-3
    np.testing.assert_array_equal(joints(tilted, headset_pose=False), joints(frames, headset_pose=False))


def test_a_pose_before_the_clip_tells_the_first_motion(frames, helpers):
    rest = helpers.time_slice(frames, 1, FRAMES)
    none = rest.replace(T_world_before=np.zeros((PEOPLE, 4, 4), np.float32))
    np.testing.assert_allclose(joints(none), joints(rest), atol=1e-6)
    known = rest.replace(T_world_before=frames.T_world_headset[:, 0])
    assert np.abs(joints(known) - joints(none))[:, 0].max() > 1e-4


def test_it_learns_eight_frames_by_heart(frames):
    """Frames with joints that nothing but images, poses and the past tell apart."""
    model, frames = small(width=64, head_width=64), jax.tree.map(lambda x: x[:1], frames)
    truth = EGOBODY3M.rest_joints_headset_m() + np.random.default_rng(1).normal(0, 0.1, (1, FRAMES, 26, 3))
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 100))

    @jax.jit
    def step(params, moments):
        def error_m(params):
            predicted = model.apply({**variables, "params": params}, frames).joints_headset_m
            return jnp.linalg.norm(predicted - truth, axis=-1).mean()

        value, gradient = jax.value_and_grad(error_m)(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, value

    variables = fakes.random_variables(model, frames)
    params, errors_m = variables["params"], []
    moments = jax.jit(optimizer.init)(params)
    for _ in range(100):
        params, moments, value = step(params, moments)
        errors_m.append(float(value))
    assert errors_m[0] > 0.1 and errors_m[-1] < 0.02
