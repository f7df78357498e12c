"""Measures what a sample teaches: EPFv2 against a plain regressor on the same rendered pictures.

Command:  python benchmarks/learning.py [--steps 1000] [--every 125] [--encoder tiny] [--optimizer muon]

EPFv2 is trained twice, once on poses alone and once on limbs in the images too (`limb_maps`). All get the same encoder,
optimizer, images, pairs of mirror images and headset pose, and the same batches of 64 single frames. The plain one
flattens the feature maps of all views into one vector, and two hidden layers make 26 joints of it: the simplest network
that can look. Its objective is the squared error alone. Scores are those of people whom none was trained on.
"""

import argparse
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from epfv2_jax import models, structs
from epfv2_jax.core import sharding
from epfv2_jax.data.pipeline import DataConfig
from epfv2_jax.data.synthetic import stream
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.experiment import build
from epfv2_jax.experiment.config import DatasetConfig, ExperimentConfig
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import EGOBODY3M, Skeleton
from epfv2_jax.models import base, contrast
from epfv2_jax.models.bodies.keypoints import KeypointBody
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.models.epfv2.model import EPFv2Config
from epfv2_jax.models.headset import heading, headset_vector
from epfv2_jax.objectives.pose import PoseObjectiveConfig
from epfv2_jax.training.augment import AugmentConfig
from epfv2_jax.training.optim import OptimizerConfig
from epfv2_jax.training.state import inference_variables
from epfv2_jax.training.step import StepConfig

ROWS = 64  # single frames of a step
HELD_OUT_BATCHES = 16
LIMB_WEIGHT = 240.0  # for a `position_weight` of 1
WRISTS = [EGOBODY3M.joint_names.index(f"b_{side}_wrist") for side in "lr"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """Configures `Plain`."""

    kind: str = "plain"
    encoder: str = "tiny"
    local_contrast: float = 0.2
    width: int = 256  # of the hidden layers


class Plain(base.SingleFrameModel):
    """Encoder, flattened maps of all views, two hidden layers, 26 joints in the level frame."""

    config: PlainConfig
    skeleton: Skeleton
    layout: RigLayout

    @nn.compact
    def __call__(self, frames: structs.Frames, train: bool = False) -> structs.Predictions:
        base.check_frames(self, frames)
        frames = base.clean(frames)
        B, T, V, H, W = frames.images.shape
        images, share = base.float_images(frames).reshape(B * T * V, H, W), self.config.local_contrast
        images = contrast.normalize(images, share) if share else (images - 0.45) / 0.225
        encoder = ENCODERS[self.config.encoder](name="encoder")
        features = encoder(images[..., None], train, frames.view_valid.reshape(-1))[-1]
        before = frames.T_world_headset if frames.T_world_before is None else frames.T_world_before[:, None]
        poses = frames.T_world_headset
        moving = jnp.broadcast_to(before[:, :, 3, 3] > 0, (B, T)) & (frames.T_world_before is not None)
        headset = headset_vector(poses, jnp.broadcast_to(before, poses.shape), moving, frames.frame_gap)
        x = jnp.concatenate([features.reshape(B, T, -1), headset], axis=-1)
        for i in range(2):
            x = nn.gelu(nn.Dense(self.config.width, name=f"hidden{i}")(x))
        body = KeypointBody(self.skeleton)
        R_world_headset = poses[..., :3, :3]
        R_headset_level = jnp.swapaxes(R_world_headset, -1, -2) @ heading(R_world_headset)
        parameters = nn.Dense(body.num_parameters, kernel_init=nn.initializers.normal(1e-3), name="joints")(x)
        return structs.Predictions(joints_headset_m=body.joints(parameters, R_headset_level)[0])


def configuration(args: argparse.Namespace, model: Any) -> ExperimentConfig:
    """Returns the run of a model."""
    finds_limbs = isinstance(model, EPFv2Config) and model.limb_maps
    return ExperimentConfig(
        output_dir="",
        seed=args.seed,
        dataset=DatasetConfig(directory="", synthetic=SyntheticConfig(frames=48, frame_step=4)),
        data=DataConfig(source="synthetic", clip_frames=1, batch_size=ROWS // 2, read_threads=1),
        augment=AugmentConfig(
            mirror_pairs=True, noise=0.0, blur_px=0.0, view_dropout=0.0, gamma=0.1, contrast=0.1, brightness=0.05
        ),
        model=model,
        objective=PoseObjectiveConfig(jerk_weight=0.0, limb_weight=LIMB_WEIGHT if finds_limbs else 0.0),
        optimizer=OptimizerConfig(kind=args.optimizer, learning_rate=args.learning_rate, warmup_steps=50),
        step=StepConfig(steps=args.steps, ema_decay=0.99),
    )


class Learner:
    """A model in training."""

    def __init__(self, config: ExperimentConfig, mesh: jax.sharding.Mesh, frames: structs.Frames):
        model = models.build(config.model, EGOBODY3M, layout.EGOBODY3M)
        parts = build.trainable_for(config, mesh, model, structs.abstract(frames))
        self.state, self._key, self._step = parts.initial_state(), parts.root_key(), parts.step_fn
        self._predict = jax.jit(model.apply)

    def train(self, batch: structs.Batch) -> None:
        self.state, _ = self._step(self.state, batch, self._key)

    def score_cm(self, batches: list[structs.Batch]) -> tuple[float, float]:
        """Returns MPJPE and the error of the wrists."""
        variables, errors = inference_variables(self.state), []
        for batch in batches:
            joints_m = self._predict(variables, batch.frames).joints_headset_m
            errors.append(100 * np.linalg.norm(joints_m - batch.targets.joints_headset_m, axis=-1)[:, 0])
        errors = np.concatenate(errors)
        return float(errors.mean()), float(errors[:, WRISTS].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=125)
    parser.add_argument("--image_size", type=int, default=48)
    parser.add_argument("--encoder", default="tiny", choices=sorted(ENCODERS))
    parser.add_argument("--optimizer", default="muon", choices=("adamw", "muon"))
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    models.MODELS["plain"] = Plain
    size = (args.image_size, args.image_size)
    mesh = sharding.make_mesh(sharding.MeshConfig())
    paint = jax.jit(stream.Painter(size))
    whole = configuration(args, EPFv2Config(encoder=args.encoder))
    make = {"config": whole.dataset.synthetic, "data": whole.data, "image_size_hw": size}
    held_out = [
        paint(b) for b in itertools.islice(stream.unpainted_batches(**make, seed=args.seed + 10**6), HELD_OUT_BATCHES)
    ]
    shared = {"encoder": args.encoder, "local_contrast": 0.2}
    compared = {
        "EPFv2, limbs": EPFv2Config(limb_maps=True, **shared),
        "EPFv2": EPFv2Config(**shared),
        "plain": PlainConfig(**shared),
    }
    learners = {
        name: Learner(configuration(args, config), mesh, held_out[0].frames) for name, config in compared.items()
    }
    print(f"{args.encoder}, {size[0]}x{size[1]}, seed {args.seed}; cm on held-out people, MPJPE / wrist")
    print(f"{'pictures':>10s}" + "".join(f"{name:>20s}" for name in learners))
    for step, unpainted in enumerate(stream.unpainted_batches(**make, seed=args.seed), start=1):
        batch = sharding.put_batch(paint(unpainted), mesh)
        for learner in learners.values():
            learner.train(batch)
        if step % args.every == 0:
            scores = [learner.score_cm(held_out) for learner in learners.values()]
            cells = (f"{mpjpe:.2f} / {wrist:.2f}" for mpjpe, wrist in scores)
            print(f"{step * ROWS:10d}" + "".join(f"{cell:>20s}" for cell in cells), flush=True)
        if step == args.steps:
            break


if __name__ == "__main__":
    main()
