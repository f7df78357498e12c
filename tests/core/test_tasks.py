import argparse
import concurrent.futures
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epfv2_jax.core import files, tasks


@given(numbers=st.lists(st.integers()), count=st.integers(1, 9))
def test_shares_are_a_partition(numbers, count):
    shares = [tasks.share(numbers, i, count) for i in range(count)]
    assert sorted(task for own in shares for task in own) == sorted(numbers)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("index, count", [(-1, 2), (2, 2), (0, 0)])
def test_impossible_shares_are_refused(index, count):
    with pytest.raises(ValueError, match=r"(index|count): must be"):
        tasks.share([1], index, count)


def test_index_from_slurm_and_kubernetes():
    slurm = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2"}
    assert tasks.index_from_environment({**slurm, "SLURM_ARRAY_TASK_COUNT": "5"}) == (2, 5)
    assert tasks.index_from_environment({"JOB_COMPLETION_INDEX": "3"}, 8) == (3, 8)
    with pytest.raises(ValueError, match="completions"):
        tasks.index_from_environment({"JOB_COMPLETION_INDEX": "3"})
    with pytest.raises(ValueError, match=r"count beside SLURM_ARRAY_TASK_COUNT: expected 5, got [0-9]+; leave it out"):
        tasks.index_from_environment({**slurm, "SLURM_ARRAY_TASK_COUNT": "5"}, 6)
    with pytest.raises(ValueError, match=r"JOB_COMPLETION_INDEX in the environment: .*'x'"):
        tasks.index_from_environment({"JOB_COMPLETION_INDEX": "x"}, 2)
    with pytest.raises(ValueError, match="give the index"):
        tasks.index_from_environment({})


@pytest.mark.parametrize("array", ["3", "0-7", "1-9:2", "1,3,7", "0-3,8", "5,9"])
def test_a_slurm_array_is_shared_whole_or_refused(array):
    ids = []
    for part in array.split(","):
        first, _, rest = part.partition("-")
        last, _, step = (rest or first).partition(":")
        ids += range(int(first), int(last) + 1, int(step or 1))
    whole = {"SLURM_ARRAY_TASK_MIN": ids[0], "SLURM_ARRAY_TASK_MAX": ids[-1], "SLURM_ARRAY_TASK_COUNT": len(ids)}
    whole["SLURM_ARRAY_TASK_STEP"] = 2 if ":2" in array else 1
    environments = [{k: str(v) for k, v in {**whole, "SLURM_ARRAY_TASK_ID": i}.items()} for i in ids]
    if "," in array:
        for environment in environments:
            with pytest.raises(ValueError, match=r"array has gaps \([0-9] tasks from .*give --index and --count"):
                tasks.index_from_environment(environment)
    else:
        found = [tasks.index_from_environment(environment) for environment in environments]
        assert found == [(i, len(ids)) for i in range(len(ids))]


def test_local_makes_no_worker_for_nothing():
    made = []

    def make_worker():
        made.append(1)
        return lambda tasks: (2 * task for task in tasks)

    assert list(tasks.local(make_worker, [])) == [] and not made
    assert list(tasks.local(make_worker, [1, 2])) == [2, 4] and len(made) == 1


def engine_of(*flags, environment=None):
    parser = argparse.ArgumentParser(exit_on_error=False)
    tasks.add_arguments(parser)
    return tasks.from_arguments(parser.parse_args(flags), environment or {})


def test_engines_by_flags():
    assert engine_of() == tasks.LOCAL == engine_of("--engine", "local")
    numbers = list(range(7))
    assert tasks.LOCAL.share(numbers) == numbers
    third = engine_of("--engine", "index", "--index", "2", "--count", "3")
    assert third == engine_of("--engine", "index", "--count", "3", environment={"JOB_COMPLETION_INDEX": "2"})
    assert third.share(numbers) == [2, 5]
    on_ray = engine_of("--engine", "ray", "--address", "auto", "--actor", "TPU=4")
    assert (on_ray.on_ray, on_ray.address, on_ray.resource, on_ray.amount) == (True, "auto", "TPU", 4)
    assert on_ray.share(numbers) == numbers
    with pytest.raises(ValueError, match="--index and --count need --engine index"):
        engine_of("--index", "0")
    with pytest.raises(ValueError, match="count: must be at least 1, got 0"):
        engine_of("--engine", "index", "--index", "0").share([1, 2])
    for actor in ("TPU", "=4", "TPU=0", "TPU=x", "CPU=inf"):
        with pytest.raises(argparse.ArgumentError, match="give what an actor needs"):
            engine_of("--actor", actor)


def test_many_may_publish_the_same_file_at_once(tmp_path):
    path, value = tmp_path / "manifest.json", list(range(5000))

    def publish(_):
        with files.publishing(path) as own:
            own.write_text(json.dumps(value))
        return json.loads(path.read_text()) == value

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(publish, range(100)))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_could_not_be_written_whole_is_not_published(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text("before")
    with pytest.raises(OSError, match="disk full"), files.publishing(path) as own:
        own.write_text("ha")
        raise OSError("disk full")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
