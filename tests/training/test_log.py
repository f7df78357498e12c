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
