"""The dry run: errors without libtpu; with it (the extra `tpu`) the shipped recipes on TPU topologies."""

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import jax
import own_rigs
import pytest

from epfv2_jax.core import sharding
from epfv2_jax.data import records
from epfv2_jax.experiment import dry_run as dry_run_lib
from epfv2_jax.experiment import recipe
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.profiling import aot

ROOT = pathlib.Path(__file__).resolve().parents[1]


def dry_run(config: str, topology: str, *flags: str) -> subprocess.CompletedProcess:
    # What the tests set for themselves, of devices and the compiler, is not for the command.
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(
        [sys.executable, "-m", "epfv2_jax.dry_run", f"--config=configs/{config}", f"--topology={topology}", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_unknown_topology():
    with pytest.raises(ValueError, match=r"topology 'v9:4x4': give a generation .* v5e:16x16"):
        aot.topology_devices("v9:4x4")
    with pytest.raises(ValueError, match="v5e-16"):
        aot.topology_devices("v5e-16")


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install 'epfv2_jax[tpu]'")):
        aot.topology_devices("v5e:4x4")


def test_command_reports_errors():
    found = dry_run("quickstart.py", "v5e:nonsense")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("error: topology 'v5e:nonsense': give a generation")


def frames_of(**changes: str) -> tuple[int, int, str]:
    """Returns views, joints and lens model of the batch of own_headset.py:tiny with changes of its data set."""
    own = [(f"dataset.{name.replace('__', '.')}", value) for name, value in changes.items()]
    if changes.get("synthetic") == "None":
        own += [("data.source", "records"), ("augment.mirror_pairs", "False")]
    config = recipe.load(ExperimentConfig, str(ROOT / "configs/own_headset.py:tiny"), own)
    batch = dry_run_lib.abstract_batch(config, 2)
    assert batch.frames.images.shape[3:] == (32, 32)
    model = dry_run_lib.trainable(config, sharding.make_mesh(config.mesh, jax.devices()[:1])).model
    found = model.layout.num_views, model.skeleton.num_joints
    assert found == (batch.frames.images.shape[2], batch.targets.joints_headset_m.shape[2])
    return *found, batch.frames.rig.cameras.model


def test_views_joints_and_lenses_are_those_of_records_rig_or_reader(tmp_path):
    rigs = own_rigs.write(tmp_path / "rigs")
    absent = {"directory": str(tmp_path / "records"), "source_directory": "None"}
    assert frames_of(**absent, synthetic__rig=str(rigs["two"])) == (2, 26, "rational")
    absent["synthetic"] = "None"
    assert frames_of(**absent, conversion__reader="unrealego") == (2, 16, "fisheye")
    with pytest.raises(ValueError, match=r"records: no such folder; give a recording"):
        frames_of(**absent)
    three = dataclasses.replace(layout.EGOBODY3M, view_names=("a", "b", "c"), upright_turns=(0,) * 3, mirror=None)
    spec = records.RecordSpec(
        image_size_hw=(64, 64),  # the recipe's size counts
        camera_model="pinhole",
        frame_s=0.1,
        skeleton=skeleton.EGOBODY3M,
        layout=three,
    )
    (tmp_path / "records" / "train").mkdir(parents=True)
    records.write_manifest(tmp_path / "records/train", records.Manifest(split="train", spec=spec, shards=()))
    assert frames_of(**absent) == (3, 26, "pinhole")


@pytest.mark.parametrize("most", [1, 5, 6, 7, 31])
@pytest.mark.parametrize("first", [1, 4, 8])
def test_largest_that_fits(most, first):
    tried = {first: first <= most}

    def fits(n: int) -> bool:
        assert n not in tried, "tried twice"
        tried[n] = n <= most
        return tried[n]

    assert aot.largest(fits, dict(tried), tries=12) == (most, most + 1)
    assert aot.largest(fits, {first: True}, tries=0) == (first, None)
    assert aot.largest(fits, {first: False}, tries=0) == (0, first)


def test_no_batch_fits():
    tried = []
    assert aot.largest(lambda n: tried.append(n), {8: False}, tries=12) == (0, 1)
    assert tried == [4, 2, 1]


@pytest.fixture
def libtpu():
    pytest.importorskip("libtpu")


@pytest.mark.extras
@pytest.mark.usefixtures("libtpu")
def test_topology_that_is_none():
    with pytest.raises(ValueError, match=r"topology 'v5e:3x5': .*; give one that exists"):
        aot.topology_devices("v5e:3x5")


@pytest.mark.extras
@pytest.mark.usefixtures("libtpu")
def test_batch_that_does_not_divide():
    found = dry_run("egobody3m_resnet18.py", "v5e:16x16")
    assert found.returncode == 1
    assert "data.batch_size = 64 is not divisible by 1 accumulation steps x 256 devices; use 256" in found.stderr


@pytest.mark.extras
@pytest.mark.usefixtures("libtpu")
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5e:16x16", "v6e:4x4"])
@pytest.mark.parametrize("config", ["egobody3m_resnet18.py", "teacher_dinov3_vit.py"])
def test_shipped_recipes_fit(config, topology):
    found = dry_run(config, topology, "--quick", "--batch_per_device=2")
    assert found.returncode == 0, found.stdout + found.stderr
    assert ": fits" in found.stdout
    # The gradient of a data-parallel step is reduced over all devices.
    assert re.search(r"all-reduce: \d+ a step", found.stdout)


@pytest.mark.extras
@pytest.mark.usefixtures("libtpu")
def test_label_pass_needs_no_other_host():
    found = dry_run("teacher_dinov3_vit.py", "v5e:16x16", "--label_pass", "--quick")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "on one host of 4 devices" in found.stdout
    assert "no collectives" in found.stdout


@pytest.mark.extras
@pytest.mark.usefixtures("libtpu")
def test_too_large_a_batch_does_not_fit():
    found = dry_run("quickstart.py", "v5e:4x4", "--quick", "--batch_per_device=32768")
    assert found.returncode == 3, found.stdout + found.stderr
    assert "does not fit" in found.stdout


@pytest.mark.extras
@pytest.mark.usefixtures("libtpu")
def test_the_recipe_for_another_headset_fits(tmp_path):
    rig = own_rigs.write(tmp_path)["two"]
    found = dry_run("own_headset.py", "v5e:2x2", "--quick", f"--config.dataset.synthetic.rig={rig}")
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"left, right: rational lenses; known from {rig}" in found.stdout
