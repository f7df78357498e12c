"""EgoBody3M with MobileNetV4-conv-small at 256x256, 16 frames: the paper's smallest student, trained on labels alone.

Put the official download below data/egobody3m/zips and start; the first start converts it. To start from timm's
ImageNet weights, import them first and add --config.encoder_weights=weights/mobilenetv4:
  python -m epfv2_jax.import_weights --encoder mobilenetv4_conv_small --file model.safetensors --out weights/mobilenetv4
Command:   python -m epfv2_jax.train --config configs/egobody3m_mobilenetv4.py
Hardware, time, score:  not yet run at full size. Batch size and schedule are our choice.
"""

import common
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = common.egobody3m(batch_size=64)
    common.student_schedule(config)
    config.output_dir = "runs/egobody3m_mobilenetv4"
    config.model = {"encoder": "mobilenetv4_conv_small", "window": 16, "dtype": "bfloat16", "drop_path": 0.05}
    return config
