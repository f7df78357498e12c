"""Measures how long a model's errors last, and what averaging over its last poses could take off them.

Command:  python benchmarks/error_persistence.py --checkpoint runs/NAME --data DIR [--split validation] [--window 16]

Prints, for each group of joints, the correlation of the error with that some frames later, and the mean error before
and after a filter: the weighted sum of the poses of the last W frames, all seen from the newest headset pose, whose
weights fit best. They are fitted on every other clip and scored on the rest, and the reverse; the first W - 1 frames of
a clip do not count. The correlation is that of the errors as they are: a constant error counts as one that lasts.

Where errors last, memory has little to average: neighbouring frames are misread alike. The filter is linear and sees
poses only, so it is no bound on attention, which sees features too.
"""

import argparse
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from epfv2_jax import checkpoints
from epfv2_jax.checkpoints import Trained
from epfv2_jax.core import checks, sharding
from epfv2_jax.evaluation import evaluate
from epfv2_jax.evaluation.evaluate import EvaluationConfig
from epfv2_jax.experiment import config as config_lib
from epfv2_jax.experiment import data as data_lib
from epfv2_jax.geometry import transforms

LAGS = (1, 2, 4, 8, 15)  # frames


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip's poses in metres, each in the headset frame of its own time; errors that must not count are NaN."""

    predicted_m: np.ndarray  # (T, J, 3)
    error_m: np.ndarray  # (T, J, 3)
    T_world_headset: np.ndarray  # (T, 4, 4)

    def history_m(self, window: int) -> np.ndarray:
        """Returns (T - W + 1, W, J, 3): the poses of each window, oldest first, in the newest frame's headset frame."""
        world_m = np.asarray(transforms.apply(self.T_world_headset, self.predicted_m))
        past_m = np.moveaxis(sliding_window_view(world_m, window, axis=0), -1, 1)
        newest = transforms.invert(self.T_world_headset[window - 1 :])
        return np.asarray(transforms.apply(newest[:, None], past_m))


def clips(trained: Trained, config: EvaluationConfig, data: str, split: str) -> Iterator[Clip]:
    """Yields the clips of a split with the model's predictions."""
    mesh = sharding.make_mesh(sharding.MeshConfig())
    predict = evaluate.on_mesh(trained.model, trained.variables, mesh)
    records = data_lib.open_split(data, split)
    for batch in evaluate.open_batches(records, config, mesh, skeleton=trained.model.skeleton):
        predicted_m = np.asarray(predict(batch.frames).joints_headset_m)
        valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
        error_m = np.where(valid[..., None], predicted_m - batch.targets.joints_headset_m, np.nan)
        for b in np.flatnonzero(valid.any(axis=(1, 2))):
            yield Clip(predicted_m[b], error_m[b], batch.frames.T_world_headset[b])


def correlations(found: list[Clip], joints: list[int]) -> list[float]:
    """Returns the correlation of the error with that after each of `LAGS` frames: 1 if it stays, 0 if it is new."""
    errors_m = [clip.error_m[:, joints] for clip in found]

    def mean_product(lag: int) -> float:
        return np.nanmean(np.concatenate([e[lag:] * e[: len(e) - lag] for e in errors_m]))

    return [mean_product(lag) / mean_product(0) for lag in LAGS]


def filtered_cm(found: list[Clip], joints: list[int], window: int) -> tuple[float, float]:
    """Returns the mean error of the joints before and after the best linear filter of the last `window` poses."""
    steps, errors = [], []  # of each clip: (N, W - 1) from the newest pose to the older ones, and (N,), axis by axis
    for clip in found:
        history_m = clip.history_m(window)[:, :, joints]
        error_m = clip.error_m[window - 1 :, joints]
        known = np.isfinite(sliding_window_view(clip.error_m[:, joints], window, axis=0)).all(axis=(-2, -1))
        step_m = np.moveaxis(history_m[:, :-1] - history_m[:, -1:], 1, -1)
        steps.append(step_m[known].reshape(-1, window - 1).astype(np.float64))
        errors.append(error_m[known].reshape(-1).astype(np.float64))
    before, after = [], []
    for half in (0, 1):
        fit, rest = (slice(half, None, 2), slice(1 - half, None, 2))
        weights = np.linalg.lstsq(np.concatenate(steps[fit]), -np.concatenate(errors[fit]))[0]
        step_m, error_m = np.concatenate(steps[rest]), np.concatenate(errors[rest])
        before.append(np.linalg.norm(error_m.reshape(-1, 3), axis=-1))
        after.append(np.linalg.norm((error_m + step_m @ weights).reshape(-1, 3), axis=-1))
    return tuple(100 * np.concatenate(values).mean() for values in (before, after))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="directory of a run")
    parser.add_argument("--data", required=True, help="directory of records, with a folder for each split")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--window", type=int, default=16, help="frames that the filter sees, the newest included")
    args = parser.parse_args()
    trained = checkpoints.load(args.checkpoint)
    config = config_lib.parse(trained.about.experiment).evaluation
    checks.within(2, config.clip_frames, **{"--window, for the clips of the recipe's evaluation": args.window})
    found, skeleton = list(clips(trained, config, args.data, args.split)), trained.model.skeleton
    groups = {"all joints": tuple(range(skeleton.num_joints)), **skeleton.metric_groups}
    lags = " ".join(f"{lag:>5d}" for lag in LAGS)
    print(f"{len(found)} clips of {args.split}; correlation of the error with that LAG frames later; errors in cm")
    print(f"{'':12s} {lags}   {'error':>6s} {'filtered':>9s}")
    for name, joints in groups.items():
        kept = " ".join(f"{value:5.2f}" for value in correlations(found, list(joints)))
        before_cm, after_cm = filtered_cm(found, list(joints), args.window)
        print(f"{name:12s} {kept}   {before_cm:6.2f} {after_cm:9.2f}")


if __name__ == "__main__":
    main()
