"""Students on EgoBody3M and on footage that the DINOv3 teacher has labelled: the paper's second half.

Put the official download below data/egobody3m/zips, and footage of the same headset as records below
data/unlabelled/records/train: epfv2_jax.convert makes them from the layout of the release, or from another one with a
reader of your own (docs/extending.md). Their joints are never read. Then run the whole chain:
  python -m epfv2_jax.train --config configs/teacher_dinov3_vit.py
  PASS="--data data/unlabelled/records/train --out data/unlabelled/labels"
  TEACHER="--checkpoint runs/teacher_dinov3_vitb16"
  python -m epfv2_jax.pseudo_label plan $PASS $TEACHER
  python -m epfv2_jax.pseudo_label run $PASS $TEACHER
  python -m epfv2_jax.pseudo_label verify $PASS
Command:   python -m epfv2_jax.train --config configs/student_egobody3m.py[:resnet18|:mobilenetv4]
Without uncertainty distillation: --config.objective.distillation_weight=0. Without the teacher:
configs/egobody3m_resnet18.py, configs/egobody3m_mobilenetv4.py.
Hardware, time, score:  not yet run at full size. Mixture, augmentation, weights and schedule are our choice.
"""

import common
from ml_collections import ConfigDict

MODELS = {
    "resnet18": {"encoder": "resnet18"},
    "mobilenetv4": {"encoder": "mobilenetv4_conv_small", "drop_path": 0.05},
}


def get_config(variant: str = "resnet18") -> ConfigDict:
    """Returns the recipe of a variant."""
    if variant not in MODELS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(MODELS)}")
    config = common.egobody3m(batch_size=64)
    common.student_schedule(config)
    config.output_dir = f"runs/student_{variant}"
    # As many labelled clips in a batch as in the recipes without the teacher, and as many pseudo-labelled ones. No
    # max_sigma_m: the paper filters by the uncertainty loss alone.
    config.data.pseudo = {
        "directory": "data/unlabelled/records/train",
        "labels": "data/unlabelled/labels",
        "batch_size": 64,
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
    config.objective = {"pseudo_weight": 1.0, "distillation_weight": 0.1}
    return config
