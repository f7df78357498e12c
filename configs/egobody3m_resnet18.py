"""EgoBody3M with ResNet-18 at 256x256, 16 frames: the paper's supervised setting as far as it is public.

Put the official download below data/egobody3m/zips and start; the first start converts it.
Command:   python -m epfv2_jax.train --config configs/egobody3m_resnet18.py
Hardware:  not yet run at full size. Batch size and schedule are our choice.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = ConfigDict()
    config.output_dir = "runs/egobody3m_resnet18"
    config.seed = 0
    config.encoder_weights = config_dict.placeholder(str)  # a directory that import_weights wrote
    config.dataset = {
        "directory": "data/egobody3m/records",
        "source_directory": "data/egobody3m/zips",
        "conversion": {"image_size_hw": (256, 256), "record_frames": 64},
    }
    config.data = {"clip_frames": 16, "batch_size": 64, "cache_bytes": 0}
    config.augment = {"flip": 0.5, "view_dropout": 0.05}
    config.model = {"encoder": "resnet18", "window": 16, "dtype": "bfloat16"}
    config.optimizer = {"learning_rate": 1e-3, "warmup_steps": 2000, "weight_decay": 1e-2}
    # 2.4 M frames are 150 k clips: 12 passes at 64 clips a step.
    config.step = {"steps": 28_000, "ema_decay": 0.999}
    config.loop = {"log_every": 50, "evaluate_every": 2000, "checkpoint_every": 1000}
    config.mesh = {"data": -1, "fsdp": 1}  # fsdp: the devices that share parameters and optimizer state
    config.evaluation = {"clip_frames": 64, "batch_size": 16, "validation_clips": 512}
    return config
