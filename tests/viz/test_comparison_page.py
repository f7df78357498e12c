"""The page of a comparison stands alone and shows each frame once, with a row for each model."""

import dataclasses
import re

import numpy as np
import pytest

from epfv2_jax.evaluation import compare
from epfv2_jax.evaluation.compare import Contender
from epfv2_jax.evaluation.comparison import ComparedModel, Comparison, Cost
from epfv2_jax.evaluation.examples import Keep
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.testing import fakes
from epfv2_jax.training.log import Curve
from epfv2_jax.viz import comparison as page
from epfv2_jax.viz import poses
from epfv2_jax.viz.report import Subject


@pytest.fixture(scope="module")
def compared():
    batch = fakes.fake_batch(B=2, T=2)
    made = {"good": fakes.fake_predictions(batch, 1, 0.02), "b<d": fakes.fake_predictions(batch, 2, 0.1)}
    contenders = {name: Contender(predict=lambda _, p=p: p, skeleton=EGOBODY3M) for name, p in made.items()}
    scores = compare.compare(contenders, [batch], EGOBODY3M, keep=Keep(worst=1, median=1))
    cost = Cost(parameters=10, flops=10.0, latency_ms=(1.0, 1.5, 2.25))
    models = (ComparedModel(name=name, run=name, note="", scores=scores[name], cost=cost) for name in made)
    return Comparison(
        data="d", split="test", device="x", joints=EGOBODY3M.joint_names, joints_left_out=(), models=tuple(models)
    )


@pytest.mark.slow
def test_the_page_stands_alone(compared, tmp_path):
    curves = {"good": Curve([1, 2], [5.0, 4.0])}
    subject = Subject(title="Two", about={"b<d": "a > b"}, describe_clip="walk {}".format, curves=curves)
    text = page.write_page(tmp_path, compared, EGOBODY3M, layout.EGOBODY3M, subject).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    pictures = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert [picture.partition(";")[0] for picture in pictures] == ["data:image/webp"] * 2 + ["data:image/svg+xml"] * 4
    assert "b&lt;d" in text and "b<d" not in text
    assert text.index("Errors and cost") < text.index("near the median") < text.index("In view and out of view")
    assert text.index("In view and out of view") < text.index("Each joint")
    (worst,) = compared.models[0].scores.result.worst
    assert f"walk {worst.clip_id}, frame {worst.frame} of the clip" in text


def test_each_model_has_a_row_with_its_own_error_and_pose(compared):
    examples = {model.name: model.scores.result.worst[0] for model in compared.models}
    figure = page.draw_frame(examples, EGOBODY3M, layout.EGOBODY3M, "somewhere")
    texts = [text.get_text() for text in figure.texts]
    errors_cm = []
    for example in examples.values():
        err_m = np.linalg.norm(example.joints_headset_m - example.true_joints_headset_m, axis=-1)
        errors_cm.append(100 * err_m[example.joint_valid].mean())
    views = [name.replace("_", " ") for name in layout.EGOBODY3M.view_names]
    rows = [f"{name}: {cm:.1f} cm" for name, cm in zip(examples, errors_cm, strict=True)]
    assert texts == ["somewhere", *views, *rows]
    assert errors_cm[0] < errors_cm[1]
    assert len(figure.axes) == 2 * (4 + 1)
    heights = [axes.get_position().y0 for axes in figure.axes]
    assert max(heights[5:]) < min(heights[:5]), "the second model is not below the first"


def test_joints_that_a_model_does_not_have_are_not_drawn(compared):
    example = compared.models[0].scores.result.worst[0]
    joints = example.joints_headset_m.copy()
    joints[EGOBODY3M.index("b_l_wrist")] = np.nan
    without = dataclasses.replace(example, joints_headset_m=joints, joint_valid=np.isfinite(joints).all(-1))
    figure = page.draw_frame({"a": without}, EGOBODY3M, layout.EGOBODY3M, "")
    figure.canvas.draw()
    assert not poses.prediction(without).present[EGOBODY3M.index("b_l_wrist")]
    assert np.isfinite(float(figure.texts[-1].get_text().split()[1]))
