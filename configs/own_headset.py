"""Synthetic people seen by your own headset: a first teacher for cameras of which there are no labels.

Put a calibration file and headset.yaml (docs/own_data.md) into data/own_headset, or name another place:
--config.dataset.synthetic.rig=FILE. People to evaluate on become files; those to learn from are rendered in the loop.
Command:   python -m epfv2_jax.train --config configs/own_headset.py[:cpu|:tiny]
Hardware:  as configs/quickstart.py for `cpu`; `tiny` is for tests and learns little
Time:      not yet run as a whole
Score:     not yet measured
"""

from ml_collections import ConfigDict

# Images, steps with single frames and then with clips, their batch sizes, people to evaluate on, frames of each.
SIZES = {
    "cpu": {"image": 48, "steps": (4000, 400), "batch": (16, 8), "people": (8, 20), "frames": 48},
    "tiny": {"image": 32, "steps": (150, 50), "batch": (8, 2), "people": (2, 2), "frames": 12},
}


def get_config(size: str = "cpu") -> ConfigDict:
    """Returns the recipe in a size."""
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    given = SIZES[size]
    single, clips = given["steps"]
    config = ConfigDict()
    config.output_dir = "runs/own_headset"
    config.seed = 0
    config.dataset = {
        "directory": "data/own_headset/synthetic/records",
        "source_directory": "data/own_headset/synthetic/recordings",
        "synthetic": {
            "rig": "data/own_headset",
            "train_sequences": 0,
            "validation_sequences": given["people"][0],
            "test_sequences": given["people"][1],
            "frames": given["frames"],
            "frame_step": 4,  # 7.5 frames a second: more different poses for the same rendering
            "image_width": 4 * given["image"] // 3,
            "clips_per_person": 16,
        },
        "conversion": {
            "reader": "recording",
            "image_size_hw": (given["image"], given["image"]),
            "record_frames": given["frames"],
        },
    }
    config.data = {
        "source": "synthetic",
        "clip_frames": 4,
        "batch_size": given["batch"][1],
        "read_threads": 1,
        "warmup": {"steps": single, "clip_frames": 1, "batch_size": given["batch"][0]},
    }
    # mirror_pairs needs headset.yaml to name the mirror partners of its views; without: mirror_pairs=False, flip=0.
    config.augment = {
        "mirror_pairs": True,
        "noise": 0.0,
        "blur_px": 0.0,
        "gamma": 0.1,
        "contrast": 0.1,
        "brightness": 0.05,
    }
    config.model = {"encoder": "tiny", "window": 4, "local_contrast": 0.2}
    config.optimizer = {"kind": "muon", "learning_rate": 3e-3, "warmup_steps": min(100, single // 3)}
    config.step = {"steps": single + clips, "ema_decay": 0.99 if size == "cpu" else 0.95}
    config.loop = {"evaluate_every": (single + clips) // 4, "checkpoint_every": (single + clips) // 4}
    config.evaluation = {"clip_frames": given["frames"], "batch_size": 2 if size == "tiny" else 4}
    return config
