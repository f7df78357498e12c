"""A tiny teacher, small records with and without damage, and one finished label pass, made once for the session."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest

from epfv2_jax import models, structs
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import worker
from epfv2_jax.checkpoints import About, CheckpointWriter
from epfv2_jax.data import images, records, rig
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.testing import fakes

SIZE_HW = (16, 16)
SPEC = fakes.record_spec(SIZE_HW)
CONFIG = {"kind": "epfv2", "encoder": "tiny", "width": 16, "heads": 2, "ffn_width": 16, "head_width": 16, "window": 4}
J = skeleton.EGOBODY3M.num_joints
PASS = plan_lib.PassConfig(unit_frames=48, slots=8, chunk_frames=4)
# Records of each sequence: (first frame, frames). The second has a gap, the third is one short record.
LAYOUT = {"a": ((0, 16), (16, 16), (32, 16), (48, 16), (64, 6)), "b": ((5, 10), (15, 3), (40, 12)), "c": ((0, 2),)}
LAYOUT |= {f"d{i}": ((10 * i, 9), (10 * i + 9, 7)) for i in range(5)}


@functools.cache
def make_rig():
    """Returns the headset of all runs. Not to be changed."""
    return jax.tree.map(np.asarray, rig.upright(rig.default_rig(), layout.EGOBODY3M, SIZE_HW))


def make_run(sequence: str, first: int, num_frames: int, seed: int) -> records.FrameRun:
    """Returns random images seen by a headset that walks and turns."""
    rng = np.random.default_rng([seed, first])
    T_world_headset = np.tile(np.eye(4, dtype=np.float32), (num_frames, 1, 1))
    angle = np.cumsum(rng.normal(0, 0.1, num_frames))
    T_world_headset[:, 0, 0] = T_world_headset[:, 2, 2] = np.cos(angle)
    T_world_headset[:, 0, 2], T_world_headset[:, 2, 0] = np.sin(angle), -np.sin(angle)
    T_world_headset[:, :3, 3] = np.array([0, 1.6, 0]) + np.cumsum(rng.normal(0, 0.03, (num_frames, 3)), axis=0)
    pixels = rng.integers(0, 255, (num_frames, 4, *SIZE_HW), np.uint8)
    index = np.arange(first, first + num_frames, dtype=np.int32)
    return records.FrameRun(
        sequence=sequence,
        split="train",
        frame_index=index,
        time_s=(index + (index > 7)) / 30,  # frame 8 is late: a gap of two frame times
        jpegs=tuple(tuple(images.encode_grey(view, 92) for view in frame) for frame in pixels),
        T_world_headset=T_world_headset,
        joints_world_m=np.zeros((num_frames, J, 3), np.float32),
        joint_valid=np.zeros((num_frames, J), bool),
        view_valid=np.ones((num_frames, 4), bool),
        rig=make_rig(),
    )


def make_runs(layout=LAYOUT) -> dict[str, list[records.FrameRun]]:
    """Returns the runs of each sequence."""
    return {
        name: [make_run(name, first, n, seed) for first, n in parts]
        for seed, (name, parts) in enumerate(layout.items())
    }


def write_records(folder, runs, spoil=lambda data, run: data) -> None:
    """Writes a split, a shard for each sequence; `spoil(data, run)` may replace a record's bytes."""
    encode = records.encode
    shards = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.shards, "encode", lambda run: spoil(encode(run), run))
        for name, parts in runs.items():
            shards.append(records.write_shard(folder / f"{name}.arrayrecord", parts))
    manifest = records.Manifest(split="train", spec=SPEC, shards=tuple(shards))
    records.write_manifest(folder, manifest)


def about(config=CONFIG) -> About:
    """Returns what a checkpoint of a model with this configuration says."""
    return About(
        experiment={"model": dict(config)},
        skeleton=skeleton.EGOBODY3M,
        layout=layout.EGOBODY3M,
        image_size_hw=SIZE_HW,
    )


def build(config=CONFIG):
    """Returns the model of a configuration."""
    return models.build(about(config).model_config, skeleton.EGOBODY3M, layout.EGOBODY3M)


def write_teacher(folder, seed: int = 0, config=CONFIG) -> None:
    """Writes a checkpoint of the model of a configuration with random variables."""
    writer = CheckpointWriter(folder, about(config))
    writer.save(
        1,
        {"step": np.zeros(())},
        fakes.random_variables(build(config), structs.blank_frames(1, 1, 4, SIZE_HW), seed),
        {},
    )
    writer.close()


def label(records_dir, teacher_dir, out_dir, config=PASS):
    """Returns (plan, reports, labeller) of a pass from plan to end."""
    plan = plan_lib.write_plan(out_dir, plan_lib.make_plan(records_dir, teacher_dir, config))
    labeller = worker.Labeller(out_dir, records_dir, teacher_dir)
    return plan, list(labeller(range(plan.num_units))), labeller


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    write_teacher(folder)
    return folder


@pytest.fixture(scope="session")
def runs():
    """The undamaged sequences by name."""
    return make_runs()


@pytest.fixture(scope="session")
def records_dir(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder, runs)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, records_dir, teacher_dir):
    """An undisturbed pass: out_dir, plan, reports, labeller. Not to be changed."""
    out_dir = tmp_path_factory.mktemp("pass")
    plan, reports, labeller = label(records_dir, teacher_dir, out_dir)
    return types.SimpleNamespace(out_dir=out_dir, plan=plan, reports=reports, labeller=labeller)


@pytest.fixture
def helpers():
    """The functions above, for tests that cannot import this file."""
    return types.SimpleNamespace(
        label=label,
        make_run=make_run,
        make_runs=make_runs,
        write_records=write_records,
        write_teacher=write_teacher,
        replace=dataclasses.replace,
        build=build,
        CONFIG=CONFIG,
        LAYOUT=LAYOUT,
        PASS=PASS,
    )
