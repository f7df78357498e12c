import pytest
from hypothesis import given
from hypothesis import strategies as st

from epfv2_jax.core import engines


@given(tasks=st.lists(st.integers()), count=st.integers(1, 9))
def test_shares_are_a_partition(tasks, count):
    shares = [engines.share(tasks, i, count) for i in range(count)]
    assert sorted(task for own in shares for task in own) == sorted(tasks)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("index, count", [(-1, 2), (2, 2), (0, 0)])
def test_impossible_shares_are_refused(index, count):
    with pytest.raises(ValueError, match="0 to count - 1"):
        engines.share([1], index, count)


def test_index_from_slurm_and_kubernetes():
    slurm = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2"}
    assert engines.index_from_environment({**slurm, "SLURM_ARRAY_TASK_COUNT": "5"}) == (2, 5)
    assert engines.index_from_environment({"JOB_COMPLETION_INDEX": "3"}, 8) == (3, 8)
    with pytest.raises(ValueError, match="completions"):
        engines.index_from_environment({"JOB_COMPLETION_INDEX": "3"})
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_COUNT=5"):
        engines.index_from_environment({**slurm, "SLURM_ARRAY_TASK_COUNT": "5"}, 6)
    with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX='x'"):
        engines.index_from_environment({"JOB_COMPLETION_INDEX": "x"}, 2)
    with pytest.raises(ValueError, match="give the index"):
        engines.index_from_environment({})


def test_local_makes_no_worker_for_nothing():
    made = []

    def make_worker():
        made.append(1)
        return lambda tasks: (2 * task for task in tasks)

    assert list(engines.local(make_worker, [])) == [] and not made
    assert list(engines.local(make_worker, [1, 2])) == [2, 4] and len(made) == 1
