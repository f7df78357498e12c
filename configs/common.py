"""The settings that the recipes on EgoBody3M share: data, reading, augmentation, cadences, mesh, evaluation."""

from ml_collections import ConfigDict


def egobody3m(batch_size: int) -> ConfigDict:
    """Returns the shared part of a recipe on EgoBody3M, in clips of 16 frames.

    Put the official download below data/egobody3m/zips: the first start converts it.
    """
    config = ConfigDict()
    config.seed = 0
    config.dataset = {"directory": "data/egobody3m/records", "source_directory": "data/egobody3m/zips"}
    config.data = {"clip_frames": 16, "batch_size": batch_size, "cache_bytes": 0}
    config.augment = {"flip": 0.5, "view_dropout": 0.05}
    config.loop = {"log_every": 50, "evaluate_every": 2000, "checkpoint_every": 1000}
    config.mesh = {"data": -1, "fsdp": 1}  # fsdp: the devices that share parameters and optimizer state
    config.evaluation = {"clip_frames": 64, "batch_size": 16, "validation_clips": 512}
    return config


def student_schedule(config: ConfigDict) -> None:
    """Sets the optimizer and the length of a student's run."""
    config.optimizer = {"learning_rate": 1e-3, "warmup_steps": 2000, "weight_decay": 1e-2}
    # 2.4 M frames are 150 k clips: 12 passes at 64 clips a step.
    config.step = {"steps": 28_000, "ema_decay": 0.999}
