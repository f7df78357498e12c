"""Motion capture (CMU) seen by the synthetic rig: the full model and the paper's ablations on real motion.

Put the clips (NN.asf, NN_MM.amc), thinned to 30 frames a second, below data/cmu: subject 01 and 02_01 to 02_08 train;
02_09, 02_10 and 11_01 are held out. CMU's originals have 120 a second: set dataset.synthetic.motion_fps to that.
Command:   python -m epfv2_jax.train --config configs/mocap.py[:full|:no_temporal|:no_projection]
Hardware:  one of 2 cores of a virtual machine with 24 GiB, another training on the other
Time:      20 to 23 minutes
Score:     MPJPE 10.43, 10.61 and 10.81 cm on held-out clips, mean pose 31.83 (docs/mocap.md)
The data used in this project was obtained from mocap.cs.cmu.edu. The database was created with funding from NSF
EIA-0196217.
"""

from ml_collections import ConfigDict

CLIPS = "data/cmu"
TRAIN = (*(f"01_{i:02d}" for i in range(1, 15)), *(f"02_{i:02d}" for i in range(1, 9)))
# Selects the best checkpoint: training clips, performed by other people in other rooms. The test clips stay unseen.
VALIDATION = ("01_05", "02_03")
TEST = ("02_09", "02_10", "11_01")

VARIANTS = {
    "full": {},
    "no_temporal": {"temporal": False},  # ablation (2) of the paper
    "no_projection": {"projection_conditioning": False},  # ablation (3)
}


def get_config(variant: str = "full") -> ConfigDict:
    """Returns the recipe of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}")

    def files(clips: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{CLIPS}/{clip}.amc" for clip in clips)

    config = ConfigDict()
    config.output_dir = f"runs/mocap_{variant}"
    config.seed = 0
    config.dataset = {
        "directory": "data/mocap/records",
        "source_directory": "data/mocap/zips",
        "synthetic": {
            "seed": 0,
            "train_sequences": 0,  # files of each part once, to score; training renders ever other people in the loop
            "validation_sequences": 16,
            "test_sequences": 0,  # each part once
            "frames": 32,
            "frame_step": 3,  # 10 frames a second
            "image_width": 60,
            "clips_per_person": 16,
            "train_motion": files(TRAIN),
            "validation_motion": files(VALIDATION),
            "test_motion": files(TEST),
            "motion_fps": 30.0,
        },
        "conversion": {"image_size_hw": (48, 48), "record_frames": 32, "doubtful": "keep"},
    }
    # As configs/synthetic.py: first single frames of many people, then clips.
    config.data = {
        "source": "synthetic",
        "clip_frames": 8,
        "batch_size": 6,
        "read_threads": 1,
        "warmup": {"steps": 4500, "clip_frames": 1, "batch_size": 16},
    }
    # Mild: the images already have sensor noise and varied light.
    config.augment = {
        "mirror_pairs": True,
        "noise": 0.0,
        "blur_px": 0.0,
        "gamma": 0.1,
        "contrast": 0.1,
        "brightness": 0.05,
    }
    config.model = {"encoder": "tiny", "window": 8, "local_contrast": 0.2, **VARIANTS[variant]}
    config.objective = {"position_weight": 8.0, "mse_weight_floor": 0.5}
    config.optimizer = {"kind": "muon", "learning_rate": 2e-3, "warmup_steps": 100}
    config.step = {"steps": 6000, "ema_decay": 0.999}
    # As in configs/synthetic.py:cpu: of XLA's library YNNPACK only matrix products.
    options = ("xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT",)
    config.loop = {"evaluate_every": 1000, "checkpoint_every": 1000, "compiler_options": options}
    config.evaluation = {"clip_frames": 32}
    return config
