"""The first run: makes a small synthetic data set, trains for minutes on a CPU, evaluates and draws pictures.

Command:   python -m epfv2_jax.train --config configs/quickstart.py
Hardware:  2 cores of a busy virtual machine with 4 cores and 23 GiB
Time:      7 minutes, of which 1.5 make the data
Score:     MPJPE 7.70 cm on 20 held-out people, mean pose 21.77 (README.md)
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
        "synthetic": {
            "seed": 0,
            "train_sequences": 240,
            "validation_sequences": 8,
            "test_sequences": 20,
            "frames": 48,
            "frame_step": 4,  # 7.5 frames a second: more different poses for the same rendering
            "image_width": 60,
        },
        "conversion": {"image_size_hw": (48, 48), "record_frames": 48},
    }
    config.data = {"clip_frames": 4, "batch_size": 16}
    # Mild: the run is short, and the images already have sensor noise and varied light.
    config.augment = {
        "noise": 0.0,
        "blur_px": 0.0,
        "view_dropout": 0.0,
        "gamma": 0.1,
        "contrast": 0.1,
        "brightness": 0.05,
    }
    config.model = {"encoder": "tiny", "window": 4}
    config.optimizer = {"learning_rate": 2e-3, "warmup_steps": 50}
    config.step = {"steps": 2400, "ema_decay": 0.99}
    config.loop = {"evaluate_every": 400, "checkpoint_every": 400}
    config.evaluation = {"clip_frames": 48, "batch_size": 4}
    return config
