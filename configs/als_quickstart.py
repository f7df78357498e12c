"""Auto-labelling on synthetic people: a teacher learns from 36 labelled sequences, students also from 204 others.

Compares three students that train for the same number of steps: on the labelled sequences alone, with the teacher's
poses, and with its uncertainty as well.
Command:   python -m epfv2_jax.auto_label --config configs/als_quickstart.py[:SEED]
Hardware:  2 cores of a busy virtual machine with 4 cores and 23 GiB
Time:      25 minutes, data included
Score:     MPJPE 10.92, 8.97 and 9.00 cm for the three students, teacher 9.20, mean pose 22.04 (docs/auto_labelling.md)
"""

from ml_collections import ConfigDict

DATA = "data/als_quickstart"


def get_config(seed: str = "0") -> ConfigDict:
    """Returns the recipe with the seed of teacher and students (the data stays the same)."""
    synthetic = {"frames": 48, "frame_step": 4, "image_width": 60}
    conversion = {"image_size_hw": (48, 48), "record_frames": 48}
    labelled = {
        "directory": f"{DATA}/labelled/records",
        "source_directory": f"{DATA}/labelled/zips",
        "synthetic": {"seed": 0, "train_sequences": 36, "validation_sequences": 8, "test_sequences": 20, **synthetic},
        "conversion": conversion,
    }
    unlabelled = {
        "directory": f"{DATA}/unlabelled/records",
        "source_directory": f"{DATA}/unlabelled/zips",
        "synthetic": {"seed": 1, "train_sequences": 204, "validation_sequences": 0, "test_sequences": 0, **synthetic},
        "conversion": conversion,
    }
    output = f"runs/als_quickstart_{seed}"

    def run(name: str, **changes) -> dict:
        # Mild for the teacher: the run is short, and the images already have sensor noise and varied light.
        mild = {"noise": 0.0, "blur_px": 0.0, "view_dropout": 0.0, "gamma": 0.1, "contrast": 0.1, "brightness": 0.05}
        return {
            "output_dir": f"{output}/{name}",
            "seed": int(seed),
            "dataset": labelled,
            "data": {"clip_frames": 4, "batch_size": 16},
            "augment": mild,
            "model": {"encoder": "small", "window": 4},
            "optimizer": {"learning_rate": 2e-3, "warmup_steps": 50},
            "step": {"steps": 1500, "ema_decay": 0.99},
            "loop": {"evaluate_every": 500, "checkpoint_every": 500},
            "evaluation": {"clip_frames": 48, "batch_size": 4},
            **changes,
        }

    config = ConfigDict()
    config.output_dir = output
    config.unlabelled = unlabelled
    config.label_pass = {"unit_frames": 2048, "slots": 8, "chunk_frames": 16}
    config.teacher = run("teacher")
    config.student = run(
        "student",
        model={"encoder": "tiny", "window": 4},
        data={
            "clip_frames": 4,
            "batch_size": 6,
            "pseudo": {
                "directory": f"{DATA}/unlabelled/records/train",
                "labels": f"{output}/labels",
                "batch_size": 10,
            },
        },
        augment={"noise": 0.02, "blur_px": 0.5, "erase": 0.1, "view_dropout": 0.02, "gamma": 0.2, "contrast": 0.2},
        objective={"pseudo_weight": 1.0, "distillation_weight": 0.1},
    )
    return config
