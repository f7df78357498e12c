import numpy as np
import pytest
from flax import serialization

from epfv2_jax.data import labels

J = 3


def make_run(record=0, n=4, **changes):
    rng = np.random.default_rng(record)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in labels.row_shapes(J, n).items()}
    fields = {
        "plan_sha256": "p",
        "teacher_sha256": "t",
        "record": record,
        "sequence": f"s{record}",
        "split": "train",
        "frame_index": np.arange(n, dtype=np.int32),
        "status": np.array([0, 2, 0, 3], np.uint8)[:n],
        **arrays,
    }
    return labels.LabelRun(**{**fields, **changes})


def assert_same(a, b):
    for name, value in vars(a).items():
        np.testing.assert_array_equal(getattr(b, name), value)


def test_round_trip_with_and_without_body_and_uncertainty():
    for run in (make_run(), make_run(cholesky6_m=None), make_run(root_rotation6=None, bone_scales=None)):
        assert_same(labels.decode(labels.encode(run)), run)
        assert labels.encode(run) == labels.encode(labels.decode(labels.encode(run)))


def test_matrices_are_those_that_were_stored():
    rng = np.random.default_rng(0)
    L = np.tril(rng.normal(size=(4, J, 3, 3))).astype(np.float32)
    R = np.linalg.qr(rng.normal(size=(4, J, 3, 3)))[0]
    R = (R * np.linalg.det(R)[..., None, None]).astype(np.float32)
    run = make_run(
        cholesky6_m=L[..., *np.tril_indices(3)],
        joint_rotations6=np.concatenate([R[..., 0], R[..., 1]], -1),
        root_rotation6=np.concatenate([R[:, 0, :, 0], R[:, 0, :, 1]], -1),
    )
    np.testing.assert_array_equal(run.cholesky_m, L)
    np.testing.assert_allclose(run.joint_rotations, R, atol=1e-6)
    np.testing.assert_allclose(run.root_rotation, R[:, 0], atol=1e-6)
    assert run.ok.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"joints_headset_m": np.zeros((4, J), np.float32)},
            r"joints_headset_m: expected \(4, any, 3\) float32, got \(4, 3\) float32",
        ),
        (
            {"cholesky6_m": np.zeros((4, J, 3, 3), np.float32)},
            r"cholesky6_m: expected \(4, 3, 6\) float32, got \(4, 3, 3, 3\) float32",
        ),
        ({"status": np.zeros(3, np.uint8)}, r"status: expected \(4,\) uint8, got \(3,\)"),
        ({"status": np.full(4, 9, np.uint8)}, r"status: must be in \[0, 4\], got 9"),
        ({"joints_headset_m": np.full((4, J, 3), np.nan, np.float32)}, "labels of s0: joints_headset_m, largest .*nan"),
        ({"bone_scales": np.full((4, J), np.inf, np.float32)}, "labels of s0: bone_scales, largest value: .*inf"),
        ({"root_position_m": np.full((4, 3), -2e3, np.float32)}, r"root_position_m, .*in \[0, 1000\.0\], got 2000"),
    ],
)
def test_ill_shaped_labels_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_run(**changes)


def test_foreign_bytes_are_refused():
    fields = serialization.msgpack_restore(labels.encode(make_run()))
    for data, message in (
        (b"", "not a label record"),
        (b"garbage", "version|not a label record"),
        (serialization.msgpack_serialize({**fields, "version": 99}), "not of version 1"),
        (serialization.msgpack_serialize({**fields, "extra": 1}), r"labels: extra: unknown key"),
        (
            serialization.msgpack_serialize({k: v for k, v in fields.items() if k != "status"}),
            "labels: status: required key is missing; delete the file and run",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            labels.decode(data)


def test_a_file_tells_whether_it_is_whole(tmp_path):
    path = tmp_path / "u.arrayrecord"
    runs = [make_run(i) for i in range(3)]
    footer = labels.write_unit(path, 0, runs, [])
    assert footer.counts == (6, 0, 3, 3, 0) and footer.num_rows == 12
    with labels.UnitReader(path, 3) as reader:
        assert reader.footer == footer and reader.sha256() == footer.sha256
        assert_same(reader[2], runs[2])
    data = path.read_bytes()
    for damaged in (b"", data[: len(data) // 2], data[:-1000]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"u\.arrayrecord.*label pass again"):
            labels.UnitReader(path, 3)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"label records and a footer in \d+ bytes: expected 3, got 4; half-written"):
        labels.UnitReader(path, 2)


def test_the_same_runs_give_the_same_bytes(tmp_path):
    for name in "ab":
        labels.write_unit(tmp_path / name, 0, [make_run(i) for i in range(3)], [])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.extras
def test_parquet_has_the_same_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    runs = [make_run(i, cholesky6_m=None) for i in range(2)]
    assert labels.export_parquet(tmp_path / "u.parquet", runs) == 8
    table = parquet.read_table(tmp_path / "u.parquet")
    assert table.schema.metadata[b"plan_sha256"] == b"p" and table.schema.metadata[b"teacher_sha256"] == b"t"
    assert table["status"].to_pylist() == ["ok", "bad_image", "ok", "non_finite"] * 2
    assert table["sequence"].to_pylist() == ["s0"] * 4 + ["s1"] * 4
    assert table["cholesky6_m"].null_count == 8
    for name, shape in labels.row_shapes(J, 8).items():
        if name != "cholesky6_m":
            expected = np.concatenate([getattr(run, name) for run in runs])
            np.testing.assert_array_equal(np.reshape(table[name].to_pylist(), shape), expected)
