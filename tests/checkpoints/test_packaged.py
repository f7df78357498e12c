"""Packaged models: what comes back, what is refused, and that a folder is whole or not there."""

import dataclasses
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints
from epfv2_jax.autolabel import identity
from epfv2_jax.checkpoints import Card, ForeignCheckpointError, Scores
from epfv2_jax.checkpoints import packaged as packaged_lib
from epfv2_jax.core import files
from epfv2_jax.inference.predictor import Predictor

SCORES = Scores(
    split="test", step=7, metrics={"mpjpe_cm": 6.2, "foot_cm": None}, baselines={"mean pose": {"mpjpe_cm": 21.6}}
)
CARD = Card(licence="CC-BY-NC-4.0", training_data="some people\nin some rooms", scores=SCORES)
NAMES = {"model.safetensors", "config.json", "README.md"}


def test_a_packaged_model_is_the_model_that_was_packaged(packaged, trained, tmp_path):
    folder = packaged(tmp_path / "new" / "model", CARD)
    assert {path.name for path in folder.iterdir()} == NAMES
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "whoever may read one may read all"
    found = checkpoints.load(folder)
    assert (found.model, found.step, found.kind, found.card) == (trained.model, 7, "best", CARD)
    jax.tree.map(np.testing.assert_array_equal, found.variables, trained.variables)
    assert jax.tree.map(lambda x: x.dtype, found.variables) == jax.tree.map(lambda x: x.dtype, trained.variables)
    assert (found.about.skeleton, found.about.layout) == (trained.about.skeleton, trained.about.layout)
    # A label pass knows its teacher by this hash.
    hashes = [identity.teacher_sha256(x.model, x.variables) for x in (found, trained)]
    assert hashes[0] == hashes[1]
    assert Predictor.from_checkpoint(folder).image_size_hw == trained.about.image_size_hw


def test_places_of_this_machine_stay_unknown_and_all_other_settings_come_along(packaged, trained, tmp_path):
    found = checkpoints.load(packaged(tmp_path / "model")).about.experiment
    assert found == {
        **trained.about.experiment,
        "output_dir": "secret_name",
        "dataset": {"directory": "records", "source_directory": "zips"},
    }
    assert "someone" not in (tmp_path / "model" / "config.json").read_text()


def test_arrays_of_any_order_size_and_number_come_back(trained, tmp_path):
    tree = {
        "params": {
            "turned": np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
            "scalar": np.float32(3),
            "empty": np.zeros((0, 2), np.float32),
            "whole": {"count": np.array([1, 2], np.int32)},
        }
    }
    given = dataclasses.replace(trained, variables=tree)
    checkpoints.save_package(tmp_path / "model", given, Card(), str)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load(tmp_path / "model").variables, tree)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_every_changed_byte_is_refused_by_the_name_of_the_file(packaged, tmp_path, name):
    path = packaged(tmp_path / "model", CARD) / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(whole) // 2, len(whole) - 3, *rng.integers(0, len(whole), 40)]:
        data = bytearray(whole)
        data[place] ^= 1 << rng.integers(7)
        path.write_bytes(data)
        if name == "config.json" and json_or_none(bytes(data)) == json.loads(whole):
            continue  # another kind of space
        with pytest.raises(ValueError, match=re.escape(str(path))):
            checkpoints.load(tmp_path / "model")
    path.write_bytes(whole)
    assert checkpoints.load(tmp_path / "model").card == CARD


def json_or_none(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_the_model_card_may_be_edited_or_left_out(packaged, tmp_path):
    folder = packaged(tmp_path / "model", CARD)
    hashes = {name: files.sha256(folder / name) for name in NAMES - {"README.md"}}
    text = (folder / "README.md").read_text()
    assert all(sha256 in text for sha256 in hashes.values())
    (folder / "README.md").write_text("Mine.")
    assert checkpoints.load(folder).card == CARD
    (folder / "README.md").unlink()
    assert checkpoints.load(folder).card == CARD


def test_what_is_no_whole_package_says_what_it_is(packaged, tmp_path):
    folder = packaged(tmp_path / "model")
    config, weights = folder / "config.json", folder / "model.safetensors"
    content = json.loads(config.read_text())

    config.write_text(json.dumps({key: value for key, value in content.items() if key != "sha256"}))
    with pytest.raises(ValueError, match=r"config\.json: sha256: expected the checksum.*get the packaged model again"):
        checkpoints.load(folder)
    other = {**content, "format_version": 99}
    config.write_text(json.dumps(files.signed(files.without_checksum(other))))
    with pytest.raises(ForeignCheckpointError, match=r"config\.json: checkpoint of format 99, this version reads"):
        checkpoints.load(folder)
    config.unlink()
    with pytest.raises(ValueError, match=r"config\.json: no such file; get the packaged model again"):
        checkpoints.load(folder)
    config.write_text(json.dumps(content))
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"model\.safetensors: a pointer of Git LFS"):
        checkpoints.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"no checkpoint here.*model\.safetensors"):
        checkpoints.load(folder)


def test_a_folder_is_never_there_in_part_and_never_overwritten(packaged, tmp_path, monkeypatch):
    def full_disk(path, content):
        assert path.with_name("model.safetensors").exists()
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(packaged_lib.files, "write_json", full_disk)
        with pytest.raises(OSError, match="no space left"):
            packaged(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    packaged(tmp_path / "model", CARD)
    with pytest.raises(ValueError, match="model: exists, and nothing is overwritten"):
        packaged(tmp_path / "model")
    assert checkpoints.load(tmp_path / "model").card == CARD


def test_a_folder_that_cannot_be_written_to_is_read_and_stays_as_it_is(packaged, tmp_path):
    folder = packaged(tmp_path / "model")

    def state():
        paths = (folder, *sorted(folder.iterdir()))
        return [(path.name, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in paths]

    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)  # holds for all but root, so the times are compared as well
    try:
        before = state()
        Predictor.from_checkpoint(folder)
        assert state() == before
        with pytest.raises(ValueError, match="a packaged model, to which nothing is written; give --out"):
            checkpoints.run_directory(folder)
    finally:
        folder.chmod(0o755)


def test_a_package_may_lie_under_any_name_and_be_copied(packaged, tmp_path):
    folder = packaged(tmp_path / "a [b] #1*")
    shutil.copytree(folder, tmp_path / "copy")
    for place in (folder, tmp_path / "copy"):
        assert checkpoints.load(place).step == 7
