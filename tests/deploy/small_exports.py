"""Small graphs to look at: checkpoints with random weights, records of random images, and the export command.

Batch statistics are random too, so that nothing is folded that is one or zero.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from epfv2_jax import checkpoints, models, structs
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import images as images_lib
from epfv2_jax.data import records as records_lib
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.deploy import sequences
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry import skeleton as skeletons
from epfv2_jax.models import base
from epfv2_jax.models.base import PoseModel

SIZE = (32, 32)
SKELETON = dataclasses.replace(skeletons.EGOBODY3M, name="other")  # the graph has the model's, not a constant
LAYOUT = layouts.EGOBODY3M
TWO_VIEWS = layouts.RigLayout(name="two", view_names=("left", "right"), upright_turns=(0, 0))
TINY = {"encoder": "small", "width": 32, "head_width": 64}
EPFV2 = {"heads": 4, "ffn_width": 64, "window": 6}
MODELS = {
    "parametric": {},
    "keypoints": {"body": "keypoints", "uncertainty": False, "local_contrast": 0.2},
    "one frame": {"temporal": False},
    "window 1, no poses": {"window": 1, "auxiliary_input": False, "projection_conditioning": False},
    "deep, query, half": {"temporal_position": "query", "depth": 2, "dtype": "bfloat16", "encoder": "tiny"},
    "lstm": {"kind": "lstm", "view_width": 16, "dtype": "bfloat16"},
}
LAYOUTS = {"one frame": TWO_VIEWS}
LENSES = {"one frame": "pinhole", "keypoints": "rational"}
# Runs the export command several times in one process: the first call of the tracer takes many seconds.
EXPORTS = """
import contextlib, json, sys
from epfv2_jax import export
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(sys.stdout):
        print("code", export.main(arguments))
    print("----")
"""


def random_variables(model: PoseModel, seed: int = 0):
    """Returns variables as after some training, the heads' last layers and the batch statistics too."""
    rng = np.random.default_rng(seed)

    frames = structs.blank_frames(1, 1, model.layout.num_views, SIZE)
    shapes = base.abstract_variables(model, frames)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        std = 0.1 if name in ("bias", "mean") else (leaf.shape[-1] / leaf.size) ** 0.5
        return rng.normal(0, 0.03 if "last" in jax.tree_util.keystr(path) else std, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def write_checkpoint(directory, name: str) -> tuple[PoseModel, dict]:
    """Writes a checkpoint of the model of that name; returns the model, in float32, and its variables."""
    own = {} if "kind" in MODELS[name] else EPFV2
    (one_of,) = models.ModelConfig.__metadata__
    config = one_of.convert({**TINY, **own, **MODELS[name]}, "model")
    model = models.build(dataclasses.replace(config, dtype="float32"), SKELETON, LAYOUTS.get(name, LAYOUT))
    variables = random_variables(model)
    about = checkpoints.About(
        experiment={"model": config_lib.to_mapping(config)},
        skeleton=model.skeleton,
        layout=model.layout,
        image_size_hw=SIZE,
        camera_model=LENSES.get(name, "fisheye"),
    )
    writer = checkpoints.CheckpointWriter(directory, about)
    writer.save(1, {"step": np.zeros(())}, variables, {})
    writer.close()
    return model, variables


def write_records(directory, num_frames: int = 30) -> None:
    """Two runs of random images, and the rest pose's joints as the truth."""
    rest = SKELETON.rest_joints_headset_m()
    runs = []
    for seed in range(2):
        sequence = sequences.random_sequence(num_frames, 4, SIZE, 1, seed)
        jpegs = tuple(
            tuple(images_lib.encode_grey(image) for image in views) for views in sequence.frames["images"][:, 0]
        )
        T_world_headset = sequence.frames["T_world_headset"][:, 0]
        runs.append(
            records_lib.FrameRun(
                sequence=f"s{seed}",
                split="validation",
                frame_index=np.arange(num_frames, dtype=np.int32),
                time_s=np.arange(num_frames) / 30,
                jpegs=jpegs,
                T_world_headset=T_world_headset,
                joints_world_m=rest @ np.moveaxis(T_world_headset[:, :3, :3], 1, 2) + T_world_headset[:, None, :3, 3],
                joint_valid=np.ones((num_frames, SKELETON.num_joints), bool),
                view_valid=np.ones((num_frames, 4), bool),
                rig=rig_lib.upright(rig_lib.default_rig(), LAYOUT, SIZE),
            )
        )
    shard = records_lib.write_shard(directory / "shard.arrayrecord", runs)
    records_lib.write_manifest(
        directory,
        records_lib.Manifest(
            split="validation",
            spec=records_lib.RecordSpec(
                image_size_hw=SIZE, camera_model="fisheye", frame_s=1 / 30, skeleton=SKELETON, layout=LAYOUT
            ),
            shards=(shard,),
        ),
    )


def run_exports(folder: pathlib.Path, jobs: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], str]:
    """Runs the export command with each job's arguments in one process; returns what each printed, and the errors."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", EXPORTS, json.dumps(list(jobs.values()))]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    printed = done.stdout.split("----\n")[:-1]
    assert len(printed) == len(jobs), done.stdout + done.stderr
    return dict(zip(jobs, printed, strict=True)), done.stderr
