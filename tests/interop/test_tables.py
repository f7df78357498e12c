"""Tables of motions: what is written is what was predicted, said in full, in memory that does not grow."""

import json

import mover
import numpy as np
import pytest

from epfv2_jax.interop import motion as motion_lib
from epfv2_jax.interop import tables

ROWS = mover.rows(50)
PARTS = [{k: v[a:b] for k, v in ROWS.items()} for a, b in ((0, 16), (16, 17), (17, None))]


def test_npz_holds_arrays_and_what_they_are(tmp_path):
    tables.write_npz(tmp_path / "walk.npz", mover.motion(tmp_path / "m", *PARTS))
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as found:
        for name, values in ROWS.items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype
        about = {name: found[name] for name in set(found.files) - set(ROWS)}
    assert about.keys() == mover.ABOUT.metadata().keys()
    for name, value in mover.ABOUT.metadata().items():
        assert about[name].tolist() == (list(value) if isinstance(value, tuple) else value)
    assert about["joint_names"].tolist()[0] == "b_head" and float(about["frame_rate_hz"]) == pytest.approx(30)


def test_parquet_holds_the_same(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(motion_lib, "CHUNK_FRAMES", 20)
    tables.write_parquet(tmp_path / "walk.parquet", mover.motion(tmp_path / "m", *PARTS))
    table = parquet.read_table(tmp_path / "walk.parquet")
    for name, values in ROWS.items():
        shape = json.loads(table.schema.field(name).metadata[b"shape"])
        found = np.array(table[name].to_pylist(), values.dtype).reshape(-1, *shape)
        np.testing.assert_array_equal(found, values)
    about = {name.decode(): json.loads(value) for name, value in table.schema.metadata.items()}
    assert about == json.loads(json.dumps(mover.ABOUT.metadata()))
    assert parquet.ParquetFile(tmp_path / "walk.parquet").num_row_groups == 3


def test_a_model_without_uncertainty_states_none(tmp_path):
    columns = motion_lib.columns(mover.J, 2, uncertain=False, body=False)
    rows = {name: ROWS[name] for name in columns}
    motion = mover.motion(tmp_path / "m", ROWS, degrees_of_freedom=None)
    (tmp_path / "n").mkdir()
    motion = motion_lib.Motion(tmp_path / "n", motion.about, columns)
    motion.append(rows)
    tables.write_npz(tmp_path / "walk.npz", motion)
    with np.load(tmp_path / "walk.npz") as found:
        assert not {"cholesky_headset_m", "covariance_world_m2", "degrees_of_freedom", "bone_scales"} & set(found.files)


def test_the_same_motion_gives_the_same_bytes(tmp_path):
    for name, parts in (("a", PARTS), ("b", [ROWS])):
        tables.write_npz(tmp_path / f"{name}.npz", mover.motion(tmp_path / name, *parts))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path):
    motion = mover.motion(tmp_path / "m", *PARTS)
    (tmp_path / "m" / "joints_world_m").write_bytes(b"")
    with pytest.raises(ValueError):
        tables.write_npz(tmp_path / "walk.npz", motion)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
