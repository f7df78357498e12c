"""How errors are distributed: sums that do not depend on batches, and percentiles near those of the errors."""

import numpy as np
import pytest

from epfv2_jax.evaluation.distribution import BIN_CM, FrameErrors


@pytest.fixture(scope="module")
def errors():
    """Errors of joints (B, T, J) and frames (B, T), with frames and joints that do not count."""
    rng = np.random.default_rng(0)
    joints = rng.gamma(2.0, 3.0, (40, 7, 3)) * np.linspace(2.0, 1.0, 7)[:, None]
    joints[rng.random(joints.shape) < 0.2] = -np.inf
    joints[3, 5] = -np.inf
    valid = joints != -np.inf
    frames = np.where(valid, joints, 0).sum(-1) / np.maximum(valid.sum(-1), 1)
    return np.where(valid.any(-1), frames, -np.inf), joints


def test_batching_does_not_matter(errors):
    frames, joints = errors
    whole = FrameErrors.of(frames, joints)
    parts = FrameErrors.zeros(3)
    for part in (slice(0, 13), slice(13, 40)):
        parts = parts.merge(FrameErrors.of(frames[part], joints[part]))
    shorter = parts.merge(FrameErrors.of(frames[:, :2], joints[:, :2]))
    assert len(shorter.counts) == 7 and shorter.counts.sum() == parts.counts.sum() + 80 - (frames[:, :2] < 0).sum()
    np.testing.assert_array_equal(parts.counts, whole.counts)
    np.testing.assert_allclose(parts.joint_sum_cm, whole.joint_sum_cm)


def test_percentiles_and_means_are_those_of_the_errors(errors):
    frames, joints = errors
    found = FrameErrors.of(frames, joints)
    known = frames[frames > -np.inf]
    for percent in (10, 50, 90, 99):
        expected = np.percentile(known, percent, method="inverted_cdf")
        assert expected <= found.percentile(percent) <= expected + BIN_CM
        for t in range(7):
            column = frames[:, t][frames[:, t] > -np.inf]
            expected = np.percentile(column, percent, method="inverted_cdf")
            assert expected <= found.over_time(percent)[t] <= expected + BIN_CM
    two = np.where(joints[..., [0, 2]] > -np.inf, joints[..., [0, 2]], np.nan)
    np.testing.assert_allclose(found.mean_over_time((0, 2)), np.nanmean(two, axis=(0, 2)))
    shares = found.histogram(np.array([0.0, 5.0, 10.0, 1000.0]))
    np.testing.assert_allclose(shares, np.histogram(known, [0, 5, 10, 1000])[0] / len(known))


def test_no_frame_and_no_number():
    nothing = FrameErrors.zeros(2)
    assert np.isnan(nothing.percentile(50)) and len(nothing.over_time(50)) == 0
    bad = FrameErrors.of(np.array([[np.nan, 1.0, -np.inf]]), np.array([[[np.nan], [1.0], [-np.inf]]]))
    assert bad.percentile(99) == np.inf and bad.percentile(50) == pytest.approx(1.0, abs=1.01 * BIN_CM)
    assert np.isnan(bad.over_time(50)[2]) and np.isnan(bad.mean_over_time((0,))[2])
