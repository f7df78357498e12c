"""EgoBody3M with ResNet-18 at 256x256, 16 frames: the paper's supervised setting, as far as it is public.

Put the official download below data/egobody3m/zips and start; the first start converts it. To start from pretrained
weights, import them (epfv2_jax.import_weights) and add --config.encoder_weights=DIR.
Command:   python -m epfv2_jax.train --config configs/egobody3m_resnet18.py
Hardware, time, score:  not yet run at full size. Batch size and schedule are our choice.
"""

import common
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = common.egobody3m(batch_size=64)
    common.student_schedule(config)
    config.output_dir = "runs/egobody3m_resnet18"
    config.model = {"encoder": "resnet18", "window": 16, "dtype": "bfloat16"}
    return config
