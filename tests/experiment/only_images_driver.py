"""Trains for a minute on a task that only images can solve; run by test_only_images.py.

People stand still and move their arms, all with the same headset pose. Clothes, girth, rooms and light vary.
Command:  python tests/experiment/only_images_driver.py VIEW_DROPOUT STEPS
Prints the wrists' error on people whom training did not show, relative to that of the mean pose.
"""

import dataclasses
import itertools
import sys

import jax
import numpy as np

from epfv2_jax import models, structs
from epfv2_jax.core import sharding
from epfv2_jax.data.pipeline import DataConfig
from epfv2_jax.data.synthetic import activities, animation, body, motion, scene, sequence, stream
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.experiment import build
from epfv2_jax.experiment.config import DatasetConfig, ExperimentConfig
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.epfv2.model import EPFv2Config
from epfv2_jax.training.augment import AugmentConfig
from epfv2_jax.training.optim import OptimizerConfig
from epfv2_jax.training.state import inference_variables
from epfv2_jax.training.step import StepConfig

SIZE = (48, 48)
WRISTS = [EGOBODY3M.joint_names.index(f"b_{side}_wrist") for side in "lr"]
SYNTHETIC = SyntheticConfig(frames=24, frame_step=4)
SAMPLE_PERSON, SAMPLE_SCENE = body.sample_person, sequence.sample_scene


def sample_arms(rng, offsets_m, num_frames, fps, _) -> motion.MotionClip:
    """Motion of the arms alone: head, trunk and legs stand in every frame of every person as in the first."""
    time_s = np.arange(num_frames) / fps
    still = activities.neutral(np.random.default_rng(0), time_s)
    curves = {name: np.broadcast_to(curve[:1], curve.shape).copy() for name, curve in still.items()}
    curves["wrists"] = activities.keys(rng, time_s, [-0.1, -0.75, 0.15] * 2, [0.7, 0.4, 0.75] * 2, hold_s=0.6)
    return animation.animate(curves, np.zeros((num_frames, 3)), offsets_m, rng.uniform(-np.pi, np.pi), 0.0, fps)


def sample_bright_person(rng) -> body.Person:
    """People of one size in bright clothes."""
    person = SAMPLE_PERSON(rng, np.array(EGOBODY3M.rest_offsets_m))
    return dataclasses.replace(person, tones={name: rng.uniform(0.6, 0.95) for name in person.tones})


def sample_dark_room(rng, path_xz_m) -> scene.Scene:
    """Dark rooms without furniture."""
    room = SAMPLE_SCENE(rng, path_xz_m)
    wall, floor, contrast, exposure = rng.uniform([0.05, 0.05, 0.0, 2.0], [0.3, 0.3, 0.1, 4.0]).astype(np.float32)
    flat = {"box_high_m": room.box_low_m + np.float32(1e-3), "box_tone": np.float32(0.3) * room.box_tone}
    return dataclasses.replace(
        room, wall_tone=wall, floor_tone=floor, floor_contrast=contrast, exposure=exposure, **flat
    )


def main() -> None:
    view_dropout, steps = float(sys.argv[1]), int(sys.argv[2])
    motion.sample_motion, body.sample_person, sequence.sample_scene = (
        sample_arms,
        sample_bright_person,
        sample_dark_room,
    )
    config = ExperimentConfig(
        output_dir="",
        dataset=DatasetConfig(directory="", synthetic=SYNTHETIC),
        data=DataConfig(source="synthetic", clip_frames=1, batch_size=32, read_threads=1),
        augment=AugmentConfig(mirror_pairs=True, noise=0.0, blur_px=0.0, view_dropout=view_dropout),
        model=EPFv2Config(encoder="tiny", window=2, local_contrast=0.2),
        optimizer=OptimizerConfig(kind="muon", warmup_steps=20, learning_rate=2e-3),
        step=StepConfig(steps=steps, ema_decay=0.98),
    )
    mesh, paint = sharding.make_mesh(config.mesh), jax.jit(stream.Painter(SIZE))
    unseen = [paint(b) for b in itertools.islice(stream.unpainted_batches(SYNTHETIC, config.data, SIZE, seed=1), 12)]
    gravity = np.concatenate([batch.frames.T_world_headset[:, 0, 1] for batch in unseen])
    assert np.ptp(gravity, axis=0).max() < 1e-4, "the headset's pose must tell nothing"
    model = models.build(config.model, EGOBODY3M, layout.EGOBODY3M)
    parts = build.trainable_for(config, mesh, model, structs.abstract(unseen[0].frames))
    state, key, mean_m = parts.initial_state(), parts.root_key(), 0.0
    for unpainted in itertools.islice(stream.unpainted_batches(SYNTHETIC, config.data, SIZE), steps):
        mean_m += unpainted.batch.targets.joints_headset_m.mean(axis=(0, 1)) / steps
        state, _ = parts.step_fn(state, sharding.put_batch(paint(unpainted), mesh), key)
    predict, variables = jax.jit(model.apply), inference_variables(state)
    truth_m = np.concatenate([b.targets.joints_headset_m for b in unseen])[..., WRISTS, :]
    if view_dropout == 1:
        unseen = [b.replace(frames=b.frames.replace(view_valid=b.frames.view_valid & False)) for b in unseen]
    found_m = np.concatenate([predict(variables, b.frames).joints_headset_m for b in unseen])[..., WRISTS, :]
    model_m, constant_m = (np.linalg.norm(guess - truth_m, axis=-1).mean() for guess in (found_m, mean_m[WRISTS]))
    print(model_m / constant_m)


if __name__ == "__main__":
    main()
