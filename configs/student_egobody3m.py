"""Students on EgoBody3M and on footage that the DINOv3 teacher has labelled: the paper's second half.

Put the official download below data/egobody3m/zips, and footage of the same headset as records below
data/unlabelled/records/train: by epfv2_jax.convert where it comes in the layout of the release, else written with
epfv2_jax.data.records and the cameras that you know. Its joints are never read. Then the whole chain:
  python -m epfv2_jax.train --config configs/teacher_dinov3_vit.py
  PASS="--records data/unlabelled/records/train --out data/unlabelled/labels"
  TEACHER="--teacher runs/teacher_dinov3_vitb16/checkpoints"
  python -m epfv2_jax.pseudo_label plan $PASS $TEACHER
  python -m epfv2_jax.pseudo_label run $PASS $TEACHER
  python -m epfv2_jax.pseudo_label verify $PASS
Command:   python -m epfv2_jax.train --config configs/student_egobody3m.py[:resnet18|:mobilenetv4]
Without uncertainty distillation: --config.loss.distillation_weight=0. Without the teacher, and else alike:
configs/egobody3m_resnet18.py, configs/egobody3m_mobilenetv4.py.
Hardware:  not yet run at full size. Mixture, augmentation, weights and schedule are our choice.
"""

from ml_collections import ConfigDict, config_dict

MODELS = {
    "resnet18": {"encoder": "resnet18"},
    "mobilenetv4": {"encoder": "mobilenetv4_conv_small", "drop_path": 0.05},
}


def get_config(variant: str = "resnet18") -> ConfigDict:
    """Returns the recipe of a variant."""
    if variant not in MODELS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(MODELS)}")
    config = ConfigDict()
    config.output_dir = f"runs/student_{variant}"
    config.seed = 0
    config.encoder_weights = config_dict.placeholder(str)  # a directory that import_weights wrote
    config.dataset = {
        "directory": "data/egobody3m/records",
        "source_directory": "data/egobody3m/zips",
        "conversion": {"image_size_hw": (256, 256), "record_frames": 64},
    }
    # As many labelled clips in a step as in the recipes without the teacher, and as many again of the teacher's.
    config.data = {
        "clip_frames": 16,
        "batch_size": 64,
        "cache_bytes": 0,
        "pseudo": {
            "directory": "data/unlabelled/records/train",
            "labels": "data/unlabelled/labels",
            "batch_size": 64,
            "max_sigma_m": config_dict.placeholder(float),  # the paper filters by the uncertainty loss alone
        },
    }
    # Strong: the teacher saw the clips as they are.
    config.augment = {
        "flip": 0.5,
        "brightness": 0.2,
        "contrast": 0.4,
        "gamma": 0.4,
        "noise": 0.04,
        "blur_px": 1.0,
        "erase": 0.25,
        "view_dropout": 0.1,
    }
    config.model = {**MODELS[variant], "window": 16, "dtype": "bfloat16"}
    config.loss = {"pseudo_weight": 1.0, "distillation_weight": 0.1}
    config.optimizer = {"learning_rate": 1e-3, "warmup_steps": 2000, "weight_decay": 1e-2}
    config.step = {"steps": 28_000, "ema_decay": 0.999}
    config.loop = {"log_every": 50, "evaluate_every": 2000, "checkpoint_every": 1000}
    config.mesh = {"data": -1, "fsdp": 1}  # fsdp: the devices that share parameters and optimizer state
    config.evaluation = {"clip_frames": 64, "batch_size": 16, "validation_clips": 512}
    return config
