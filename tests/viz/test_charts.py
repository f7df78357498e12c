"""The charts show the numbers that they are given, for one model and for several."""

import numpy as np
import pytest

from epfv2_jax.evaluation.distribution import FrameErrors
from epfv2_jax.training.log import Curve
from epfv2_jax.viz import charts, plots


@pytest.fixture(scope="module")
def errors():
    joints = np.random.default_rng(0).gamma(2.0, 3.0, (50, 6, 4))
    return FrameErrors.of(joints.mean(-1), joints)


def lines(axes):
    """Returns the drawn lines by their names in the legend."""
    return {line.get_label(): line for line in axes.lines}


def test_the_bars_of_a_histogram_hold_nearly_all_frames(errors):
    (axes,) = charts.histogram({"model": errors}).axes
    (bars,) = axes.patches
    assert 99 < bars.get_data().values.sum() <= 100 + 1e-9
    (axes,) = charts.histogram({"a": errors, "b": errors}).axes
    assert len(axes.patches) == 2 and [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_error_over_time_of_one_model_and_its_groups(errors):
    (axes,) = charts.over_time({"model": errors}, {"wrist": (1, 2)}, frame_s=0.5).axes
    drawn = lines(axes)
    np.testing.assert_allclose(drawn["all joints"].get_xdata(), 0.5 * np.arange(6))
    np.testing.assert_allclose(drawn["all joints"].get_ydata(), errors.mean_over_time(range(4)))
    np.testing.assert_allclose(drawn["wrist"].get_ydata(), errors.mean_over_time((1, 2)))
    (axes,) = charts.over_time({"a": errors, "b": errors}, {"wrist": (1, 2)}).axes
    assert set(lines(axes)) == {"a", "b"}


def test_small_charts_of_what_changes_with_validation_beside_training():
    steps = [1, 2, 3]
    curves = {
        "skipped": Curve(steps, [0, 0, 0]),
        "term": Curve(steps, [1.0, 2.0, 3.0]),
        "loss": Curve(steps, [3.0, 2.0, 1.0]),
        "mpjpe_cm": Curve(steps, [3.0, 2.0, 1.5]),
        "validation/mpjpe_cm": Curve([2, 3], [4.0, 3.0]),
        "validation/wrist_cm": Curve([2, 3], [8.0, 7.0]),
    }
    figure = charts.training(curves)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["loss", "mpjpe cm", "term", "validation: wrist cm"]
    assert list(lines(figure.axes[1])["validation"].get_ydata()) == [4.0, 3.0]
    assert charts.training({"skipped": curves["skipped"]}) is None


def test_a_long_curve_is_drawn_by_means():
    values = np.arange(30_000.0)
    (axes,) = charts.learning({"a": Curve(list(range(30_000)), values.tolist())}, "").axes
    (line,) = axes.lines
    assert len(line.get_xdata()) <= 300 and line.get_ydata().mean() == pytest.approx(values.mean())


def test_a_chart_is_the_same_svg_each_time_and_asks_for_nothing(errors):
    first, second = (plots.to_svg(charts.histogram({"model": errors})) for _ in range(2))
    assert first == second and b"<text" in first
    assert b"url(http" not in first and b'href="http' not in first
