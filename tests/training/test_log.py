"""The logs of a run."""

import json
import sys
import types

from epfv2_jax.training.log import RunLog


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_resumed_log_continues_without_repeats_or_torn_lines(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": 0.5})
    log.skipped(3, ["a"])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed in mid-write
    resumed = RunLog(tmp_path, 2)
    resumed.scalars(3, {"loss": 0.25})
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3]
    assert steps(tmp_path / "skipped.jsonl") == []


def test_damaged_lines_are_left_out_with_a_warning_and_the_others_stay(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = ['{"step": 1, "loss": 0.5}', '{"step": 2, "loss": NaN}']
    path.write_bytes("\n".join([good[0], "[]", '{"loss": 1}', '{"step": true}', good[1]]).encode() + b"\n\xff\n")
    RunLog(tmp_path, 2)
    assert path.read_text().splitlines() == good
    for line, message in ((2, "expected a JSON object"), (3, "step: expected an integer"), (6, "not valid JSON")):
        assert f"{path}: line {line} is left out: " in caplog.text and message in caplog.text


def test_tensorboard_groups_the_training_figures(tmp_path, monkeypatch):
    written = []
    writer = types.SimpleNamespace(add_scalar=lambda *scalar: written.append(scalar), close=lambda: None)
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = lambda directory, purge_step: writer
    module.__spec__ = types.SimpleNamespace(name="tensorboardX")
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    log = RunLog(tmp_path, 0, tensorboard=True)
    log.scalars(5, {"loss": 0.5, "learning_rate": 1e-3, "validation/mpjpe_cm": 4.0})
    log.close()
    assert written == [("train/loss", 0.5, 5), ("train/learning_rate", 1e-3, 5), ("validation/mpjpe_cm", 4.0, 5)]
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 5, "loss": 0.5, "learning_rate": 1e-3, "validation/mpjpe_cm": 4.0}
