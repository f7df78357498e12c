"""The tables and the JSON of a comparison hold what was measured."""

import itertools
import json

import pytest

from epfv2_jax.evaluation import compare, comparison, tables
from epfv2_jax.evaluation.compare import Contender
from epfv2_jax.evaluation.comparison import ComparedModel, Comparison, Cost
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.metrics.visibility import ALL_JOINTS
from epfv2_jax.testing import fakes


@pytest.fixture(scope="module")
def compared():
    batch = fakes.fake_batch(B=2, T=5)
    made = {"good": fakes.fake_predictions(batch, 1, 0.02), "bad": fakes.fake_predictions(batch, 2, 0.1)}
    scores = compare.compare(
        {name: Contender(predict=lambda _, p=p: p, skeleton=EGOBODY3M) for name, p in made.items()}, [batch], EGOBODY3M
    )
    return Comparison(
        data="data/here",
        split="test",
        device="a machine",
        joints=EGOBODY3M.joint_names[:-1],
        joints_left_out=EGOBODY3M.joint_names[-1:],
        models=tuple(
            ComparedModel(
                name=name,
                run=f"runs/{name}",
                note="lstm, best checkpoint, step 7",
                scores=scores[name],
                cost=Cost(parameters=1_230_000, flops=4.56e6, latency_ms=(1.0, 1.5, 2.25)),
            )
            for name in made
        ),
    )


def cells(markdown: str) -> list[list[list[str]]]:
    """Returns the tables of a Markdown text: rows of cells."""
    found, inside = [], False
    for line in markdown.splitlines():
        if line.startswith("|") and not inside:
            found.append([])
        inside = line.startswith("|")
        if inside and not set(line) <= set("|-: "):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_markdown_has_a_row_for_each_model_and_each_joint(compared):
    text = comparison.as_markdown(compared)
    main, views, joints = cells(text)
    assert main[0][1:8] == ["MPJPE", "MPJVE", "wrist", "shoulder", "leg", "foot", "PA-MPJPE"]
    assert [row[0] for row in main[1:]] == [row[0] for row in views[1:]] == ["good", "bad"]
    good = compared.models[0].scores
    assert float(main[1][1]) == pytest.approx(good.result.metrics["mpjpe_cm"], abs=0.006)
    assert main[1][-3:] == ["1.23", "4.6", "1.50 (1.00 to 2.25)"]
    wrist = views[0].index("wrist out of view")
    assert views[1][wrist] == tables.number(good.in_view["wrist"]["out_of_view_cm"])
    assert [row[0] for row in joints[1:]] == list(compared.joints)
    assert float(joints[1][2]) == pytest.approx(compared.models[1].scores.result.per_joint_cm["b_head"], abs=0.006)
    assert "on a machine" in text and "left out: b_r_transversetarsal" not in text
    assert f"left out: {EGOBODY3M.joint_names[-1]}" in text and "2 models on the test split of data/here" in text


def test_markdown_reads_as_plain_text(compared):
    lines = comparison.as_markdown(compared).splitlines()
    for a, b in itertools.pairwise(lines):
        if a.startswith("|") and b.startswith("|"):
            assert [i for i, c in enumerate(a) if c == "|"] == [i for i, c in enumerate(b) if c == "|"]


def test_json_is_strict_and_complete(compared, tmp_path):
    compared.models[1].scores.result.metrics["foot_cm"] = float("nan")
    tables.write_strict_json(comparison.to_json(compared), tmp_path / "new" / "compare.json")
    read = json.loads((tmp_path / "new" / "compare.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert (read["split"], read["device"], len(read["joints"])) == ("test", "a machine", fakes.J - 1)
    good, bad = read["models"]
    assert bad["metrics"]["foot_cm"] is None and good["metrics"]["foot_cm"] > 0
    assert good["latency_ms"] == [1.0, 1.5, 2.25] and good["parameters"] == 1_230_000
    in_view = compared.models[0].scores.in_view
    assert set(good["in_view"]) == set(in_view)
    assert good["in_view"][ALL_JOINTS] == pytest.approx(in_view[ALL_JOINTS])
    assert set(good["per_joint_cm"]) == set(EGOBODY3M.joint_names)
