"""Measures the latency of a streamed frame, on one thread: by length of the window, and against recomputing the window.

Command:  python benchmarks/streaming.py [--image_size 256] [--encoder resnet18] [--repeats 20]

One person, four views, caches full. In each round all calls alternate, so that other load on the machine slows all
alike; a ratio is the median of the ratios within rounds. "After the encoder" is the model's `decode` on the same
features. "Anew" is a clip as long as the window, of which only the last frame is used.
"""

import os

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from inputs import make_frames

from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.inference.predictor import Predictor, PredictorState
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.structs import Frames

_LONG, _SHORT, _ANEW = 64, 1, 16  # windows, frames
_DECODES = 10  # calls of decode in one timing, and so many timings more: a single one is too short


class Stream:
    """A live stream of which every call is the next frame."""

    def __init__(self, predictor: Predictor, frames: Frames):
        self._step = functools.partial(
            predictor.step, images=frames.images[:, -1], T_world_headset=frames.T_world_headset[:, -1]
        )
        self.state = predictor.start(frames.rig)
        # Full caches, without waiting for as many frames: ages fall to that of the newest entry, 0.
        stream = self.state.stream
        full = tuple(c.replace(age=jnp.arange(c.age.shape[1])[None, ::-1]) for c in stream.caches)
        self.state = self.state.replace(stream=stream.replace(caches=full))

    def __call__(self) -> jax.Array:
        pose, self.state = self._step(self.state)
        return pose.joints_world_m


class Decode:
    """Everything after the encoder, again and again on the same features, with the state carried on."""

    def __init__(self, predictor: Predictor, frames: Frames, state: PredictorState):
        last = jax.tree.map(lambda x: jnp.asarray(x[:, -1:]), frames.replace(rig=None)).replace(rig=state.rig)
        self._features = jax.jit(functools.partial(predictor.model.apply, method="encode"))(predictor.variables, last)
        self._variables, self._state = predictor.variables, jax.tree.map(jnp.copy, state.stream)
        decode = functools.partial(predictor.model.apply, method="decode")
        self._decode = jax.jit(
            lambda variables, features, state: decode(variables, features, last, state), donate_argnums=2
        )

    def __call__(self) -> jax.Array:
        for _ in range(_DECODES):
            predictions, self._state = self._decode(self._variables, self._features, self._state)
        return predictions.joints_headset_m


def time_interleaved(calls: dict[str, Callable[[], jax.Array]], repeats: int) -> dict[str, np.ndarray]:
    """Returns the milliseconds (repeats,) of each call, made in turn after two rounds that do not count."""
    times = {name: np.zeros(repeats) for name in calls}
    for i in range(-2, repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i >= 0:
                times[name][i] = 1e3 * (time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--encoder", default="resnet18", choices=sorted(ENCODERS))
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    frames = make_frames(1, _ANEW, args.image_size)
    predictors, steps, decodes = {}, {}, {}
    for window in (_LONG, _SHORT, _ANEW):
        model = EPFv2(EPFv2Config(encoder=args.encoder, window=window), EGOBODY3M, layout.EGOBODY3M)
        if not predictors:  # the window changes no parameter
            one = jax.tree.map(lambda x: x[:, :1], frames.replace(rig=None)).replace(rig=frames.rig)
            variables = jax.jit(model.init)(jax.random.key(0), one)
        predictors[window] = Predictor(model, variables)
        steps[f"step {window}"] = stream = Stream(predictors[window], frames)
        if window != _ANEW:
            decodes[f"decode {window}"] = Decode(predictors[window], frames, stream.state)
    steps["anew"] = lambda: predictors[_ANEW].clip(frames).joints_world_m[:, -1]
    times = time_interleaved(steps, args.repeats)
    times |= {name: ms / _DECODES for name, ms in time_interleaved(decodes, _DECODES * args.repeats).items()}

    print(f"{args.encoder}, 4 views of {args.image_size}x{args.image_size}, one thread, medians of {args.repeats}")
    for label, slow, fast in (
        (f"a frame, window {_LONG} against {_SHORT}", f"step {_LONG}", f"step {_SHORT}"),
        (f"after the encoder, window {_LONG} against {_SHORT}", f"decode {_LONG}", f"decode {_SHORT}"),
        (f"window of {_ANEW} anew against a streamed frame", "anew", f"step {_ANEW}"),
    ):
        ratio = np.median(times[slow] / times[fast])
        print(f"{label}: {np.median(times[slow]):.2f} ms, {np.median(times[fast]):.2f} ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
