"""What the keys of a weight file cannot tell: variants of an architecture that differ in operations without weights."""

import pathlib
from typing import Any

from epfv2_jax.core import checks, files

#: Encoder -> timm's names of variants with the same keys and shapes: they blur or average where ours takes strides.
LOOKALIKES: dict[str, tuple[str, ...]] = {
    "resnet18": ("resnetblur18",),
    "resnet50": ("resnetblur50", "resnetaa50"),
    "mobilenetv4_conv_medium": ("mobilenetv4_conv_blur_medium", "mobilenetv4_conv_aa_medium"),
}
#: What DINOv3's encoders are called in timm.
_TIMM_NAMES = {
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
}


def confirm(path: str, encoder: str) -> str:
    """Returns what is known of a weight file's architecture, a line to print, by the `config.json` beside it.

    timm's names the architecture; that of a ResNet from Hugging Face says where its bottlenecks take their strides.

    Raises:
      ValueError: it is not that of `encoder`, or the file is not valid JSON.
    """
    config_path = pathlib.Path(path).with_name("config.json")
    if not config_path.is_file():
        alike = LOOKALIKES.get(encoder)
        doubt = (
            f"; the keys cannot tell {encoder} from {' and '.join(alike)}: make sure that it is none" if alike else ""
        )
        return f"no config.json beside the file{doubt}"
    config = files.read_json(config_path, max_bytes=1 << 20)
    checks.instance(str(config_path), config, dict, "a JSON object")
    named = config.get("architecture", config.get("model_type"))
    if "architecture" in config and not _is_own(config["architecture"], encoder):
        raise ValueError(
            f"{config_path}: architecture {named!r} is not {encoder!r}, and the same weights mean another function "
            "there; get the plain variant, or choose the encoder of that name"
        )
    if config.get("downsample_in_bottleneck"):
        raise ValueError(
            f"{config_path}: downsample_in_bottleneck: these bottlenecks take their strides in the first convolution, "
            f"those of {encoder!r} in the second; get the weights of the other variant (ResNet v1.5)"
        )
    return f"architecture by config.json: {named or 'not stated'}"


def _is_own(architecture: Any, encoder: str) -> bool:
    own = _TIMM_NAMES.get(encoder, encoder)
    return architecture in (own, f"{own}_qkvb")
