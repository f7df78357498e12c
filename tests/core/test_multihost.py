import os
import signal

import jax
import pytest

from epfv2_jax.core import multihost


@pytest.fixture
def initialized(monkeypatch):
    """Records how JAX would have been initialized."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    return calls


def test_told_where_the_others_are(initialized):
    multihost.connect("10.0.0.1:8476", 4, 2)
    ((args, kwargs),) = initialized
    assert args == ("10.0.0.1:8476", 4, 2) and kwargs["cluster_detection_method"] == "deactivate"
    assert kwargs["heartbeat_timeout_seconds"] < 60  # a lost process ends the run within a minute


def test_in_an_indexed_job_the_index_is_found(initialized):
    multihost.connect("job-0:8476", 4, environment={"JOB_COMPLETION_INDEX": "3"})
    assert initialized[0][0] == ("job-0:8476", 4, 3)
    multihost.connect("job-0:8476", 4, 1, environment={"JOB_COMPLETION_INDEX": "3"})
    assert initialized[1][0] == ("job-0:8476", 4, 1)


def test_jax_finds_the_others_where_nothing_is_said(initialized):
    multihost.connect(environment={"JOB_COMPLETION_INDEX": "3"})
    ((args, kwargs),) = initialized
    assert args == () and "cluster_detection_method" not in kwargs


def test_nothing_found_says_what_to_give(monkeypatch):
    def nothing_found(**kwargs):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nothing_found)
    with pytest.raises(ValueError, match=r"--distributed: no TPU slice .*give --coordinator_address"):
        multihost.connect()


@pytest.mark.parametrize(
    "given, text",
    [
        (("10.0.0.1:8476", 4, None), "--process_id None: give all three"),
        ((None, 4, 1), "--coordinator_address None"),
        (("10.0.0.1:8476", 4, 4), r"--process_id: must be in \[0, 3\], got 4"),
        (("10.0.0.1", 4, 0), "give HOST:PORT"),
    ],
)
def test_a_part_is_refused(initialized, given, text):
    with pytest.raises(ValueError, match=text):
        multihost.connect(*given, environment={})
    assert not initialized


def test_sigterm_is_told_after_the_next_step_and_only_inside():
    before = signal.getsignal(signal.SIGTERM)
    with multihost.preemption() as stop_after:
        assert not stop_after(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_after(2)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_is_told_after_the_next_step_and_a_second_one_ends_the_process(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), multihost.preemption() as stop_after:
        assert not stop_after(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_after(2)
        assert "interrupted: saving after this step" in capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_several_processes_of_srun_are_no_runs_of_their_own(initialized):
    multihost.join(False, None, None, None, environment={})
    multihost.join(False, environment={"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"})
    for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        with pytest.raises(ValueError, match=f"{name}=4 in the environment, and no --distributed"):
            multihost.join(False, environment={name: "4"})
        multihost.join(True, environment={name: "4"})
        multihost.join(False, "10.0.0.1:8476", 4, 2, environment={name: "4"})
    assert [args for args, _ in initialized] == 2 * [(), ("10.0.0.1:8476", 4, 2)]


def test_alone_errors_pass_through():
    with pytest.raises(SystemExit, match="error: x"), multihost.ends_together():
        raise SystemExit("error: x")
    with pytest.raises(RuntimeError, match="y"), multihost.ends_together():
        raise RuntimeError("y")


@pytest.mark.parametrize(
    "error, code", [(SystemExit("error: x"), 1), (SystemExit(3), 3), (RuntimeError("y"), 1), (KeyboardInterrupt(), 1)]
)
def test_with_others_an_error_ends_the_process_at_once(monkeypatch, capsys, error, code):
    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as ended, multihost.ends_together():
        raise error
    assert ended.value.args == (code,)
    printed = capsys.readouterr().err
    assert str(error) in printed or code == 3


@pytest.mark.parametrize("code", [0, None, multihost.EXIT_PREEMPTED])
def test_with_others_a_run_that_ends_well_waits_for_them(monkeypatch, code):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(SystemExit) as ended, multihost.ends_together():
        raise SystemExit(code)
    assert ended.value.code == code
