"""Steps in buckets: kept, whole or not counted, moved aside when damaged. The stores are emulators."""

import emulators
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from epfv2_jax import checkpoints
from epfv2_jax.checkpoints import storage
from epfv2_jax.core import files, stores
from epfv2_jax.geometry import layout, skeleton

pytestmark = emulators.MARKS

STATE = {"a": jnp.arange(4), "b": {"c": jnp.ones((3, 3))}}


def items(number):
    saved = {"a": STATE["a"] + number, "b": STATE["b"]}
    args = {"state": ocp.args.StandardSave(saved), "model": ocp.args.StandardSave(saved)}
    return ocp.args.Composite(**args, meta=ocp.args.JsonSave({"number": number}))


def test_the_newest_steps_stay_and_read_back(bucket):
    directory = files.resolve(f"{bucket}/kept")
    steps = storage.Steps(directory, 1)
    for step in (1, 2):
        steps.save(step, items(step))
    steps.wait()
    assert storage.sealed_steps(directory) == storage.all_steps(directory) == [2]
    storage.verify(directory / "2")
    assert storage.read_meta(directory / "2") == {"number": 2}
    np.testing.assert_array_equal(storage.read_item(directory / "2" / "model")["a"], np.arange(4) + 2)
    np.testing.assert_array_equal(steps.restore_state(2, STATE)["a"], np.arange(4) + 2)
    steps.delete(2)
    steps.close()
    assert storage.all_steps(directory) == []


def test_a_step_that_a_killed_process_left_does_not_count_and_is_written_anew(bucket):
    directory = files.resolve(f"{bucket}/killed")
    steps = storage.Steps(directory, 2)
    steps.save(2, items(2))
    steps.close()
    for name in (storage.SEAL, "commit_success.txt", "state/manifest.ocdbt"):
        stores.remove(directory / "2" / name)
    assert storage.all_steps(directory) == [2] and storage.sealed_steps(directory) == []
    steps = storage.Steps(directory, 2)
    steps.save(2, items(7))
    steps.close()
    storage.verify(directory / "2")
    np.testing.assert_array_equal(storage.read_item(directory / "2" / "state")["a"], np.arange(4) + 7)


def test_a_damaged_step_is_moved_aside_and_the_one_before_is_used(bucket, caplog):
    directory = files.resolve(f"{bucket}/damaged")
    about = checkpoints.About(
        experiment={"model": {"kind": "epfv2"}},
        skeleton=skeleton.EGOBODY3M,
        layout=layout.EGOBODY3M,
        image_size_hw=(16, 16),
    )
    writer = checkpoints.CheckpointWriter(directory, about)
    for step in (1, 2):
        writer.save(step, {"a": jnp.arange(3) + step}, {"w": jnp.ones(2)}, {"next_step": step})
    writer.close()
    stores.write(directory / checkpoints.LATEST / "2" / "state" / "_METADATA", b"{}")
    writer = checkpoints.CheckpointWriter(directory, about)
    state, meta = writer.restore({"a": jnp.zeros(3, int)})
    writer.close()
    np.testing.assert_array_equal(state["a"], np.arange(3) + 1)
    assert meta["position"] == {"next_step": 1} and "going back to step 1" in caplog.text
    assert [path.name for path in (directory / checkpoints.DAMAGED).iterdir()] == ["latest_2"]
    assert storage.all_steps(directory / checkpoints.LATEST) == [1]


def test_an_encoder_is_kept_in_a_bucket(bucket):
    path = f"{bucket}/encoder"
    checkpoints.save_encoder(path, "small", {"params": {"w": np.arange(3.0)}}, {"file": "f"})
    name, variables, meta = checkpoints.load_encoder(path)
    assert name == "small" and meta["file"] == "f"
    np.testing.assert_array_equal(variables["params"]["w"], np.arange(3.0))
    with pytest.raises(ValueError, match=f"{path}: exists"):
        checkpoints.save_encoder(path, "small", {"params": {}}, {})


def test_a_packaged_model_is_kept_in_a_bucket(bucket, packaged, trained):
    path = packaged(f"{bucket}/model", checkpoints.Card(licence="any"))
    assert set(stores.sizes(path)) == {"model.safetensors", "config.json", "README.md"}
    found = checkpoints.load(path)
    assert found.card.licence == "any"
    np.testing.assert_equal(found.variables, trained.variables)
    stores.write(f"{path}/model.safetensors", b"damaged")
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file"):
        checkpoints.load(path)
