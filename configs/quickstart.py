"""The first run: trains on synthetic people that are rendered in the loop, for minutes on a CPU, evaluates and draws.

Only the people of validation and test become files; of the people that it learns from, no image comes twice.
Command:   python -m epfv2_jax.train --config configs/quickstart.py[:headset_only]
Hardware:  a virtual machine with 2 cores and 24 GiB
Time:      11 minutes
Score:     MPJPE 4.13 cm on 20 held-out people, mean pose 21.61 (README.md)
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "headset_only")


def get_config(variant: str = "full") -> ConfigDict:
    """Returns the recipe, or with "headset_only" that of a model which learns from the headset's pose alone."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.output_dir = "runs/quickstart" if variant == "full" else f"runs/quickstart_{variant}"
    config.seed = 0
    config.dataset = {
        "directory": "data/quickstart/records",
        "source_directory": "data/quickstart/zips",
        "synthetic": {
            "seed": 0,
            "train_sequences": 0,
            "validation_sequences": 8,
            "test_sequences": 20,
            "frames": 48,
            "frame_step": 4,  # 7.5 frames a second: more different poses for the same rendering
            "image_width": 60,
            "clips_per_person": 16,
            "headset_lamp": (1.0, 5.0),  # cameras and lamps of infrared light: arms stand out from the room
        },
        "conversion": {"image_size_hw": (48, 48), "record_frames": 48},
    }
    # Neighbouring frames teach an encoder hardly more than one: first single frames of many people, then clips.
    config.data = {
        "source": "synthetic",
        "clip_frames": 4,
        "batch_size": 8,
        "read_threads": 1,
        "warmup": {"steps": 6000, "clip_frames": 1, "batch_size": 16},
    }
    sees = variant == "full"
    # Mild: the images already have sensor noise and varied light.
    config.augment = {
        "mirror_pairs": True,
        "noise": 0.0,
        "blur_px": 0.0,
        "view_dropout": 0.0 if sees else 1.0,
        "gamma": 0.1,
        "contrast": 0.1,
        "brightness": 0.05,
    }
    config.model = {"encoder": "tiny", "window": 4}
    # As in configs/synthetic.py: wrists are not to be held still, nor counted least.
    config.objective = {"position_weight": 8.0, "mse_weight_floor": 0.8}
    config.optimizer = {"kind": "muon", "learning_rate": 3e-3, "warmup_steps": 100}
    config.step = {"steps": 6400, "ema_decay": 0.99}
    # Of XLA's library YNNPACK only matrix products, with what surrounds them; its convolutions are slow.
    options = ("xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT",)
    config.loop = {"evaluate_every": 800, "checkpoint_every": 800, "compiler_options": options}
    config.evaluation = {"clip_frames": 48, "batch_size": 4, "hide_views": not sees}
    return config
