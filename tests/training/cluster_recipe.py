"""A run of seconds for the tests of several processes; the folder comes as the recipe's argument."""

from ml_collections import ConfigDict

STEPS = 20
BATCH_SIZE = 8


def get_config(folder: str) -> ConfigDict:
    config = ConfigDict()
    config.output_dir = f"{folder}/run"
    config.dataset = {"directory": f"{folder}/records"}
    config.data = {"clip_frames": 4, "batch_size": BATCH_SIZE, "read_threads": 1}
    config.augment = {"noise": 0.01, "blur_px": 0.0, "view_dropout": 0.05}
    config.model = {
        "encoder": "tiny",
        "body": "keypoints",
        "width": 16,
        "heads": 2,
        "ffn_width": 16,
        "head_width": 16,
        "window": 4,
    }
    # Low: the tests compare losses to rounding, and each step of Adam makes more of the rounding before it.
    config.optimizer = {"learning_rate": 1e-4, "warmup_steps": 5}
    config.step = {"steps": STEPS, "ema_decay": 0.9}
    config.mesh = {"fsdp": 1, "min_shard_size": 64}
    config.loop = {"log_every": 1, "evaluate_every": 10, "checkpoint_every": 4}
    config.evaluation = {"clip_frames": 8, "batch_size": 4, "validation_clips": 4}
    return config
