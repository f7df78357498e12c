"""Checkpoints: what is restored, what is refused, what damage does, and that a model comes back alone."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from epfv2_jax import checkpoints, models
from epfv2_jax.checkpoints import About, CheckpointWriter, imported, storage
from epfv2_jax.checkpoints import about as about_lib
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.epfv2.model import EPFv2Config
from epfv2_jax.testing import fakes
from epfv2_jax.testing.fakes import fake_batch

MODEL_CONFIG = EPFv2Config(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=32, head_width=32, window=4)
MODEL = models.build(MODEL_CONFIG, EGOBODY3M, layouts.EGOBODY3M)
EXPERIMENT = {"model": config_lib.to_mapping(MODEL_CONFIG), "seed": 0, "optimizer": {"learning_rate": 0.1}}


def about(**experiment) -> About:
    """Returns a run of this experiment with `experiment` changed."""
    return About(
        experiment={**EXPERIMENT, **experiment},
        skeleton=EGOBODY3M,
        layout=layouts.EGOBODY3M,
        image_size_hw=(16, 16),
    )


@pytest.fixture(scope="module")
def variables():
    """Few arrays in place of a model's: each costs time in every checkpoint."""
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.random((32, 16), np.float32), "bias": rng.random(16, np.float32)}
    return {"params": {"hidden": layer}, "batch_stats": {"bn1": {"mean": rng.random(8, np.float32)}}}


def state_at(step):
    return {"step": jnp.asarray(step), "w": jnp.arange(12.0).reshape(3, 4) + step}


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def test_restores_the_newest_state_with_its_position(tmp_path, variables):
    writer = CheckpointWriter(tmp_path, about())
    for step in (1, 2, 3):
        writer.save(step, state_at(step), variables, {"next_step": step})
    writer.close()
    reopened = CheckpointWriter(tmp_path, about())
    state, meta = reopened.restore(abstract(state_at(0)))
    reopened.close()
    assert meta["position"] == {"next_step": 3}
    jax.tree.map(np.testing.assert_array_equal, state, state_at(3))


def test_another_configuration_is_refused_by_key(tmp_path, variables):
    writer = CheckpointWriter(tmp_path, about())
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.close()
    other = CheckpointWriter(tmp_path, about(optimizer={"learning_rate": 0.2}))
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate: checkpoint 0\.1, now 0\.2.*output_dir"):
        other.restore(abstract(state_at(0)))
    other.close()


def test_what_may_change_between_restarts_is_not_refused(tmp_path, variables):
    writer = CheckpointWriter(tmp_path, about())
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.close()
    moved = about(seed=1, optimizer={"learning_rate": 0.2})
    writer = CheckpointWriter(tmp_path, moved, changeable=("optimizer", "seed"))
    assert int(writer.restore(abstract(state_at(0)))[0]["step"]) == 1
    writer.close()
    # A name is not the beginning of another name.
    writer = CheckpointWriter(tmp_path, moved, changeable=("optim", "seed"))
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate"):
        writer.restore(abstract(state_at(0)))
    writer.close()


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(step):
    largest_file(step / "state").write_bytes(b"")


def halve(step):
    path = largest_file(step / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def uncommit(step):
    (step / "checksums.json").unlink()


def lose_meta(step):
    (step / "meta" / "metadata").write_text("{")


@pytest.mark.parametrize("damage", [truncate, halve, uncommit, lose_meta])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path, variables, caplog, damage):
    writer = CheckpointWriter(tmp_path, about())
    for step in (1, 2):
        writer.save(step, state_at(step), variables, {"next_step": step})
    writer.close()
    damage(tmp_path / checkpoints.LATEST / "2")

    again = CheckpointWriter(tmp_path, about())
    state, meta = again.restore(abstract(state_at(0)))
    assert meta["position"] == {"next_step": 1}
    jax.tree.map(np.testing.assert_array_equal, state, state_at(1))
    assert f"{tmp_path}/latest/2 cannot be read" in caplog.text and "going back to step 1" in caplog.text
    assert (tmp_path / checkpoints.DAMAGED / "latest_2").is_dir()
    again.save(2, state_at(20), variables, {"next_step": 2})  # the number is free again
    again.close()
    last = CheckpointWriter(tmp_path, about())
    jax.tree.map(np.testing.assert_array_equal, last.restore(abstract(state_at(0)))[0], state_at(20))
    last.close()


def test_every_flipped_bit_is_found_and_the_step_before_is_used(tmp_path, variables, caplog):
    writer = CheckpointWriter(tmp_path, about())
    for step in (1, 2):
        writer.save(step, state_at(step), variables, {"next_step": step})
    writer.close()
    newest = tmp_path / checkpoints.LATEST / "2"
    everything = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    rng = np.random.default_rng(0)
    for _ in range(50):
        path = everything[rng.integers(len(everything))]
        data = bytearray(whole := path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=re.escape(path.name)):
            storage.verify(epath.Path(newest))
        path.write_bytes(whole)
    storage.verify(epath.Path(newest))

    path = largest_file(newest / "model")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    trained = checkpoints.load(tmp_path)
    assert trained.step == 1 and f"{newest}: model/" in caplog.text and "latest/1 is used instead" in caplog.text
    again = CheckpointWriter(tmp_path, about())
    assert int(again.restore(abstract(state_at(0)))[0]["step"]) == 1
    assert f"{newest} cannot be read" in caplog.text and "going back to step 1" in caplog.text
    again.close()


def test_a_full_disk_is_one_short_error_and_the_step_before_stays(tmp_path, variables, monkeypatch, caplog):
    writer = CheckpointWriter(tmp_path, about())
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.wait()

    def full_disk(*_):
        raise ValueError(
            "RESOURCE_EXHAUSTED: Failed writing: No space left on device [os_error_code='28']\n" + 9000 * "x"
        )

    with monkeypatch.context() as patched:
        patched.setattr(storage, "seal", full_disk)
        writer.save(2, state_at(2), variables, {"next_step": 2})
        message = r"^\S+/latest/2: the checkpoint cannot be written: no space left on the device\. The steps .{,99}$"
        with pytest.raises(OSError, match=message):
            writer.wait()
        writer.close()  # does not repeat the error
    assert len(caplog.text) < 1000
    again = CheckpointWriter(tmp_path, about())
    assert again.latest_step() == 1 and int(again.restore(abstract(state_at(0)))[0]["step"]) == 1
    again.close()


def test_a_model_with_no_whole_step_is_refused_by_the_reason(tmp_path, variables):
    writer = CheckpointWriter(tmp_path, about())
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.close()
    largest_file(tmp_path / checkpoints.LATEST / "1" / "model").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint can be read; .*latest/1: model/\S+ is missing"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("without_marker", [(1,), (2,), (1, 3), (2, 3), (1, 2, 3)])
def test_steps_that_other_versions_of_orbax_wrote_count(tmp_path, variables, caplog, without_marker):
    writer = CheckpointWriter(tmp_path, about(), keep=3)
    for step in (1, 2, 3):
        writer.save(step, state_at(step), variables, {"next_step": step})
    writer.close()
    for step in without_marker:  # as Orbax 0.11 leaves them
        folder = tmp_path / checkpoints.LATEST / str(step)
        markers = list(folder.rglob("commit_success.txt"))
        for marker in markers:
            marker.unlink()
        storage.seal(epath.Path(folder), [path.name for path in folder.iterdir() if path.name != storage.SEAL])
    again = CheckpointWriter(tmp_path, about(), keep=3)
    assert again.latest_step() == 3
    assert int(again.restore(abstract(state_at(0)))[0]["step"]) == 3
    again.save(4, state_at(4), variables, {"next_step": 4})
    again.close()
    assert storage.sealed_steps(epath.Path(tmp_path / checkpoints.LATEST)) == [4, 3, 2]
    assert checkpoints.load(tmp_path).step == 4
    assert "cannot be read" not in caplog.text and "is used instead" not in caplog.text


@pytest.mark.parametrize("name", ["run [v2]", "a*b?", "50% #3", "läuft", "[0-9]"])
def test_a_run_may_have_any_name(tmp_path, variables, name):
    directory = tmp_path / name
    writer = CheckpointWriter(directory, about())
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.save_if_best(1, variables, 5.0, {})
    writer.close()
    again = CheckpointWriter(directory, about())
    assert again.latest_step() == 1 and int(again.restore(abstract(state_at(0)))[0]["step"]) == 1
    again.close()
    assert checkpoints.load(directory).kind == "best"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_is_moved_where_nothing_can_be_read(tmp_path, variables):
    writer = CheckpointWriter(tmp_path, about())
    for step in (1, 2):
        writer.save(step, state_at(step), variables, {"next_step": step})
    writer.close()
    again = CheckpointWriter(tmp_path, about())
    other_tree = abstract({"step": jnp.zeros(()), "renamed": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"latest: no checkpoint can be read \(step 2: .*; step 1: "):
        again.restore(other_tree)
    assert again.latest_step() == 2
    jax.tree.map(np.testing.assert_array_equal, again.restore(abstract(state_at(0)))[0], state_at(2))
    again.close()


def test_a_damaged_best_does_not_stop_a_run(tmp_path, variables, caplog):
    writer = CheckpointWriter(tmp_path, about())
    writer.save_if_best(1, variables, 5.0, {"mpjpe_cm": 5.0})
    writer.close()
    lose_meta(tmp_path / checkpoints.BEST / "1")
    again = CheckpointWriter(tmp_path, about())
    assert "best/1 cannot be read" in caplog.text
    assert again.save_if_best(1, variables, 6.0, {"mpjpe_cm": 6.0})
    again.close()
    assert checkpoints.load(tmp_path).step == 1


def test_best_is_kept_and_preferred_and_survives_a_restart(tmp_path, variables):
    marked = jax.tree.map(lambda leaf: leaf + 1, variables)
    writer = CheckpointWriter(tmp_path, about())
    assert writer.save_if_best(1, variables, 5.0, {"mpjpe_cm": 5.0})
    assert writer.save_if_best(2, marked, 4.0, {"mpjpe_cm": 4.0})
    assert not writer.save_if_best(3, variables, 4.5, {"mpjpe_cm": 4.5})
    assert not writer.save_if_best(3, variables, float("nan"), {})
    writer.save(3, state_at(3), variables, {"next_step": 3})
    writer.close()

    again = CheckpointWriter(tmp_path, about())
    assert not again.save_if_best(4, variables, 4.2, {"mpjpe_cm": 4.2})
    again.close()
    trained = checkpoints.load(tmp_path)
    assert (trained.kind, trained.step) == ("best", 2)
    assert trained.model == MODEL
    jax.tree.map(np.testing.assert_array_equal, trained.variables, jax.device_get(marked))
    (meta,) = (tmp_path / checkpoints.BEST / "2" / "meta").glob("metadata*")
    assert json.loads(meta.read_text())["metrics"] == {"mpjpe_cm": 4.0}


def test_loaded_model_needs_nothing_else_and_predicts_the_same(tmp_path):
    frames = fake_batch(B=1, T=2, image_hw=(16, 16)).frames
    variables = fakes.random_variables(MODEL, frames)
    writer = CheckpointWriter(tmp_path, about())
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.close()
    trained = checkpoints.load(tmp_path)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(trained.variables))
    predict = jax.jit(lambda model, variables: model.apply(variables, frames), static_argnums=0)
    expected = predict(MODEL, variables)
    found = predict(trained.model, trained.variables)
    np.testing.assert_array_equal(found.joints_headset_m, expected.joints_headset_m)


def test_empty_directory_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint here .*give the directory"):
        checkpoints.load(tmp_path)


def test_differences_are_dotted_and_hold_the_data():
    assert about().differences(about()) == []
    other = dataclasses.replace(about(optimizer={"learning_rate": 0.2}), image_size_hw=(16, 24))
    assert about().differences(other) == [
        ("optimizer.learning_rate", 0.1, 0.2),
        ("records.image_size_hw", [16, 16], [16, 24]),
    ]
    two_views = dataclasses.replace(about(), layout=fakes.TWO_VIEWS)
    assert {key.rpartition(".")[0] for key, _, _ in about().differences(two_views)} == {"records.layout"}


def test_what_a_run_says_about_itself_survives_json():
    meta = json.loads(json.dumps(about().to_meta()))
    back = About.from_meta(meta, "here")
    assert back == about() and back.model_config == MODEL_CONFIG


def test_damaged_metadata_is_refused_by_field():
    meta = json.loads(json.dumps(about().to_meta()))
    for change, message in (
        ({"image_size_hw": [16]}, "image_size_hw: expected 2 values"),
        ({"image_size_hw": [0, 16]}, r"image_size_hw\[0\]: must be at least 1"),
        ({"experiment": 3}, "experiment: expected a mapping"),
        ({"experiment": {"model": None}}, r"experiment\.model: expected a mapping"),
        ({"skeleton": None}, "skeleton: expected a mapping"),
        ({"layout": {**meta["layout"], "upright_turns": [0.5, 0, 0, 0]}}, r"layout\.upright_turns\[0\]: expected int"),
    ):
        with pytest.raises(ValueError, match=rf"^here: {message}.*; the checkpoint is damaged: use another"):
            About.from_meta({**meta, **change}, "here")
    for name in ("experiment", "skeleton", "layout", "image_size_hw"):
        with pytest.raises(ValueError, match=f"here: {name}: required key is missing"):
            About.from_meta({k: v for k, v in meta.items() if k != name}, "here")
    for meta in ([], None, {"format_version": "2"}):
        with pytest.raises(checkpoints.ForeignCheckpointError, match="here: checkpoint of format"):
            About.from_meta(meta, "here")


def test_other_data_than_the_checkpoint_saw_are_refused(tmp_path, variables):
    writer = CheckpointWriter(tmp_path, about())
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.close()
    writer = CheckpointWriter(tmp_path, dataclasses.replace(about(), image_size_hw=(16, 24)))
    with pytest.raises(ValueError, match=r"records\.image_size_hw: checkpoint \[16, 16\], now \[16, 24\]"):
        writer.restore(abstract(state_at(0)))
    writer.close()


def test_a_checkpoint_of_another_format_is_refused_by_its_number(tmp_path, variables, monkeypatch):
    writer = CheckpointWriter(tmp_path, about())
    with monkeypatch.context() as patched:
        patched.setattr(about_lib, "FORMAT_VERSION", 1)
        writer.save(1, state_at(1), variables, {"next_step": 1})
        writer.close()
    message = r"latest/1: checkpoint of format 1, this version reads 3; train again"
    with pytest.raises(checkpoints.ForeignCheckpointError, match=message):
        checkpoints.load(tmp_path)
    writer = CheckpointWriter(tmp_path, about())
    with pytest.raises(checkpoints.ForeignCheckpointError, match="step 1: checkpoint of format 1"):
        writer.restore(abstract(state_at(0)))
    assert writer.latest_step() == 1, "a foreign checkpoint is no damaged one: it stays where it is"
    writer.close()


def test_a_longer_run_may_go_on_where_the_length_is_changeable(tmp_path, variables):
    writer = CheckpointWriter(tmp_path, about(step={"steps": 10, "ema_decay": 0.9}))
    writer.save(1, state_at(1), variables, {"next_step": 1})
    writer.close()
    longer = about(step={"steps": 20, "ema_decay": 0.9})
    writer = CheckpointWriter(tmp_path, longer, changeable=("step.steps",))
    assert int(writer.restore(abstract(state_at(0)))[0]["step"]) == 1
    writer.close()
    for refused, changeable in ((longer, ()), (about(step={"steps": 20, "ema_decay": 0.5}), ("step.steps",))):
        writer = CheckpointWriter(tmp_path, refused, changeable=changeable)
        with pytest.raises(ValueError, match=r"step\.(ema_decay|steps): checkpoint"):
            writer.restore(abstract(state_at(0)))
        writer.close()


ENCODER = {"params": {"conv1": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}}


def test_an_encoder_comes_back_with_its_name_and_origin(tmp_path):
    variables = {**ENCODER, "batch_stats": {"bn1": {"mean": np.ones(3, np.float32)}}}
    checkpoints.save_encoder(tmp_path / "a" / "weights", "resnet18", variables, {"file": "f", "sha256": "0"})
    name, loaded, meta = checkpoints.load_encoder(tmp_path / "a" / "weights")
    assert (name, meta["file"], meta["sha256"]) == ("resnet18", "f", "0")
    assert meta["version"]
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_an_encoder_is_not_overwritten(tmp_path):
    checkpoints.save_encoder(tmp_path / "weights", "resnet18", ENCODER, {"file": "first"})
    with pytest.raises(ValueError, match="exists, and nothing is overwritten; give a new directory"):
        checkpoints.save_encoder(tmp_path / "weights", "resnet18", ENCODER, {"file": "second"})
    assert checkpoints.load_encoder(tmp_path / "weights")[2]["file"] == "first"


def test_an_encoder_is_never_there_in_part(tmp_path, monkeypatch):
    def full_disk(writer, path, **kwargs):
        (path / "model").mkdir(parents=True)
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(imported.ocp.Checkpointer, "save", full_disk)
        with pytest.raises(OSError, match="no space left"):
            checkpoints.save_encoder(tmp_path / "weights", "resnet18", ENCODER, {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"no imported encoder here; give the directory that import_weights wrote"):
        checkpoints.load_encoder(tmp_path / "weights")
    checkpoints.save_encoder(tmp_path / "weights", "resnet18", ENCODER, {})
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load_encoder(tmp_path / "weights")[1], ENCODER)


def test_an_encoder_that_has_changed_is_refused(tmp_path):
    checkpoints.save_encoder(tmp_path / "weights", "resnet18", ENCODER, {})
    path = largest_file(tmp_path / "weights" / "model")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(
        ValueError, match=r"weights: model/.*has changed since it was written; import the weights again"
    ):
        checkpoints.load_encoder(tmp_path / "weights")


def test_several_processes_cannot_save_to_s3(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        ValueError, match=r"s3://b/run: a run of several processes cannot save to s3://; give it.*gs://"
    ):
        storage.Steps(epath.Path("s3://b/run"), 2)
