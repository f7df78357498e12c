"""The logs of a run."""

import json

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
