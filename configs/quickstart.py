"""The first run: makes a small synthetic data set, trains for minutes on a CPU, evaluates and draws pictures.

Command:   python -m epfv2_jax.train --config configs/quickstart.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = ConfigDict()
    config.output_dir = "runs/quickstart"
    config.seed = 0
    config.dataset = {
        "directory": "data/quickstart/records",
        "source_directory": "data/quickstart/zips",
        "synthetic": {"seed": 0, "train_sequences": 90, "validation_sequences": 4, "test_sequences": 10, "frames": 96},
        "conversion": {"image_size_hw": (64, 64), "record_frames": 64},
    }
    config.data = {"clip_frames": 16, "batch_size": 12}
    config.augment = {"noise": 0.0}  # the images hold sensor noise already
    config.model = {"encoder": "tiny", "window": 16}
    config.optimizer = {"learning_rate": 2e-3, "warmup_steps": 50}
    config.step = {"steps": 650, "ema_decay": 0.99}
    config.loop = {"evaluate_every": 200, "checkpoint_every": 200}
    return config
