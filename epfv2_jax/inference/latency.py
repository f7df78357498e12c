"""Measures how long a streamed frame takes, several models in turn."""

import os
import pathlib
import platform
import re
import time
from collections.abc import Mapping

import jax
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.structs import Frames

_WARM_UP = 3  # rounds that are not counted: the first compiles


def measure(predictors: Mapping[str, Predictor], frames: Frames, rounds: int = 40) -> dict[str, np.ndarray]:
    """Returns for each predictor by name the seconds (rounds,) from a frame on the host to its pose on the device.

    Each round calls every predictor once, beginning with another one, so that what else the machine does meets all
    alike. The frames of the clip are streamed again and again.

    Args:
      predictors: the models.
      frames: host arrays (1, T, ...): one clip, without padding.
      rounds: that count.
    """
    checks.at_least(1, rounds=rounds)
    checks.one_of((1,), **{"frames: number of clips": len(frames.frame_valid)})
    states = {name: predictor.start(frames.rig) for name, predictor in predictors.items()}
    seconds = {name: [] for name in predictors}
    names = list(predictors)
    for i in range(_WARM_UP + rounds):
        t = i % frames.frame_valid.shape[1]
        given = (frames.images[:, t], frames.T_world_headset[:, t], frames.view_valid[:, t])
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            pose, states[name] = predictors[name].step(states[name], *given)
            jax.block_until_ready(pose)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(found[_WARM_UP:]) for name, found in seconds.items()}


def device_name() -> str:
    """Returns the name of the device that computes, such as "NVIDIA H100 80GB HBM3", or that of the CPU."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    info = pathlib.Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{named[1] if named else platform.machine()}, {os.cpu_count()} cores"
