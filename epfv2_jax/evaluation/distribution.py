"""How the errors of frames are distributed, and how they go on in a clip: mergeable counts and sums."""

import dataclasses
from collections.abc import Sequence

import numpy as np

#: Width of a bin of frame errors: the resolution of the percentiles.
BIN_CM = 0.1
_BINS = 1000  # and one for all that is larger, or not a number


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameErrors:
    """Sums over frames by their place in the clip, T places. A frame's error is the mean over its valid joints.

    A model with memory knows nothing of the past at the first place of a clip and more at each later one.
    """

    counts: np.ndarray  # (T, bins) frames by their error
    joint_sum_cm: np.ndarray  # (T, J) of the errors of the valid joints
    joint_count: np.ndarray  # (T, J)

    @classmethod
    def zeros(cls, num_joints: int) -> "FrameErrors":
        """Returns the neutral element of `merge`, for clips of any length."""
        return cls(
            counts=np.zeros((0, _BINS + 1), np.int64),
            joint_sum_cm=np.zeros((0, num_joints)),
            joint_count=np.zeros((0, num_joints), np.int64),
        )

    @classmethod
    def of(cls, frame_err_cm: np.ndarray, joint_err_cm: np.ndarray) -> "FrameErrors":
        """Returns those of clips: errors of frames (B, T), -inf without a valid joint, and of joints (B, T, J), same.

        A prediction that is not a number is an error beyond all bins.
        """
        T = frame_err_cm.shape[1]
        valid, joint_valid = frame_err_cm != -np.inf, joint_err_cm != -np.inf
        known = np.where(np.isfinite(frame_err_cm), frame_err_cm, np.inf)
        bins = np.minimum(known / BIN_CM, _BINS).astype(np.int64)
        counts = np.zeros((T, _BINS + 1), np.int64)
        np.add.at(counts, (np.broadcast_to(np.arange(T), bins.shape)[valid], bins[valid]), 1)
        sums = np.where(joint_valid, joint_err_cm, 0.0).astype(np.float64).sum(0)
        return cls(counts=counts, joint_sum_cm=sums, joint_count=joint_valid.sum(0))

    def merge(self, other: "FrameErrors") -> "FrameErrors":
        """Returns the sums over both; the longer clips give the number of places."""
        T = max(len(self.counts), len(other.counts))

        def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return sum(np.pad(x, ((0, T - len(x)), (0, 0))) for x in (a, b))

        return FrameErrors(
            **{f.name: add(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)}
        )

    def percentile(self, percent: float) -> float:
        """Returns the upper edge of the bin, cm, up to which the errors of so many percent of the frames go.

        inf beyond all bins; NaN without a frame.
        """
        return float(_percentile(self.counts.sum(0)[None], percent)[0])

    def over_time(self, percent: float) -> np.ndarray:
        """Returns `percentile` (T,) of each place in the clip."""
        return _percentile(self.counts, percent)

    def mean_over_time(self, joints: Sequence[int]) -> np.ndarray:
        """Returns the mean error (T,) of these joints at each place in the clip, cm; NaN where none was valid."""
        total, count = (x[:, list(joints)].sum(1) for x in (self.joint_sum_cm, self.joint_count))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def histogram(self, edges_cm: np.ndarray) -> np.ndarray:
        """Returns the share of the frames between each two of `edges_cm`, which are multiples of `BIN_CM`."""
        below = np.concatenate([[0], np.cumsum(self.counts.sum(0))])
        places = np.minimum(np.rint(np.asarray(edges_cm) / BIN_CM).astype(int), _BINS)
        return np.diff(below[places]) / max(below[-1], 1)


def _percentile(counts: np.ndarray, percent: float) -> np.ndarray:
    """Returns (n,) for the bins of each row (n, bins)."""
    total = counts.sum(1)
    wanted = np.maximum(percent / 100 * total, 1e-9)
    bins = (np.cumsum(counts, axis=1) >= wanted[:, None]).argmax(1)
    edges_cm = np.where(bins < _BINS, (bins + 1) * BIN_CM, np.inf)
    return np.where(total > 0, edges_cm, np.nan)
