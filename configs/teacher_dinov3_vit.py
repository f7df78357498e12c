"""A teacher on EgoBody3M: DINOv3 ViT, fine-tuned with learning rates that fall towards its input. The paper's is ViT-B.

Fetch the weights yourself (their licence is custom and gated; none are shipped here), import them, and add
--config.encoder_weights=weights/dinov3_vitb16; without it, the teacher starts from scratch:
  python -m epfv2_jax.import_weights --encoder dinov3_vitb16 --file model.safetensors --out weights/dinov3_vitb16
Command:   python -m epfv2_jax.train --config configs/teacher_dinov3_vit.py[:s16|:s16plus|:b16|:l16]
Frozen:    --config.model.encoder_train=none trains the decoders alone, at a fraction of the memory.
Hardware, time, score:  not yet run at full size. Batch size, schedule and fine-tuning are our choice.
"""

import common
from ml_collections import ConfigDict

LAYER_DECAY = {"s16": 0.75, "s16plus": 0.75, "b16": 0.75, "l16": 0.8}
DROP_PATH = {"s16": 0.1, "s16plus": 0.1, "b16": 0.1, "l16": 0.2}


def get_config(variant: str = "b16") -> ConfigDict:
    """Returns the recipe of a variant."""
    if variant not in LAYER_DECAY:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(LAYER_DECAY)}")
    encoder = f"dinov3_vit{variant}"
    config = common.egobody3m(batch_size=32)
    config.output_dir = f"runs/teacher_{encoder}"
    config.evaluation.batch_size = 8
    config.model = {
        "encoder": encoder,
        "encoder_train": "all",
        "drop_path": DROP_PATH[variant],
        "window": 16,
        "dtype": "bfloat16",
        "remat": True,
        "scan_layers": False,  # True compiles faster; mesh.fsdp needs it to save memory
    }
    config.optimizer = {
        "learning_rate": 5e-4,
        "warmup_steps": 2000,
        "weight_decay": 5e-2,
        "encoder_scale": 1.0,
        "encoder_layer_decay": LAYER_DECAY[variant],
    }
    # 2.4 M frames are 150 k clips: 6 passes at 32 clips a step.
    config.step = {"steps": 28_000, "ema_decay": 0.9995}
    return config
