"""Latency: all predictors are called alike, in turn, and the slower one is the slower one."""

import time

import jax
import numpy as np
import pytest

from epfv2_jax.inference import latency
from epfv2_jax.testing import fakes


class Sleeper:
    """A predictor that takes its time and notes its calls."""

    def __init__(self, name, seconds, calls):
        self.name, self.seconds, self.calls = name, seconds, calls

    def start(self, rig):
        return 0

    def step(self, state, images, T_world_headset, view_valid):
        self.calls.append((self.name, images[0, 0, 0, 0].item()))
        time.sleep(self.seconds)
        return jax.numpy.zeros(3), state + 1


def clip(num_frames):
    """A clip whose frames tell their number in a pixel."""
    frames = fakes.fake_batch(B=1, T=num_frames).frames
    frames.images[0, :, 0, 0, 0] = np.arange(num_frames)
    return frames


def test_every_round_calls_each_predictor_once_on_the_same_frame():
    calls = []
    predictors = {name: Sleeper(name, seconds, calls) for name, seconds in (("a", 0), ("b", 0.02), ("c", 0))}
    found = latency.measure(predictors, clip(4), rounds=6)
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 6, "b": 6, "c": 6}
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert all(sorted(name for name, _ in each) == ["a", "b", "c"] for each in rounds)
    assert {each[0][0] for each in rounds} == {"a", "b", "c"}, "the same one always begins"
    frames = [{frame for _, frame in each} for each in rounds]
    assert all(len(each) == 1 for each in frames) and set.union(*frames) == {0, 1, 2, 3}
    assert np.median(found["b"]) > 0.02 > 2 * np.median(found["a"]) > 0


def test_one_clip_and_at_least_one_round():
    with pytest.raises(ValueError, match="frames: number of clips: 2"):
        latency.measure({}, fakes.fake_batch(B=2, T=1).frames)
    with pytest.raises(ValueError, match="rounds: must be at least 1"):
        latency.measure({}, clip(1), rounds=0)


def test_the_device_has_a_name():
    assert latency.device_name().strip() and "\n" not in latency.device_name()
