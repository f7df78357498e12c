"""Layouts of DINOv3's vision transformers: timm's, the original's and those of Hugging Face."""

import functools
from collections.abc import Mapping

from epfv2_jax.models.encoders.weights.layout import ZEROS, Layout, Source, Third, by_table

_IGNORED = {
    r"(embeddings\.)?mask_token": "only for pretraining",
    r".*\.qkv\.bias_mask": "zeroes the key's bias, which is left out here",
    r"rope_embed\.periods": "computed here",
    r"local_cls_norm\..*": "only for pretraining",
    r"head\..*": "classifier",
}

# Source of a parameter by its path; the second table is for the inside of a block.
_TIMM = {
    "cls_token": "cls_token",
    "register_tokens": "reg_token",
    "patch_embed/kernel": "patch_embed.proj.weight",
    "patch_embed/bias": "patch_embed.proj.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}
_TIMM_BLOCK = {
    "norm1/scale": "norm1.weight",
    "norm1/bias": "norm1.bias",
    "attn/query/kernel": Third("attn.qkv.weight", 0),
    "attn/query/bias": ZEROS,
    "attn/key/kernel": Third("attn.qkv.weight", 1),
    "attn/value/kernel": Third("attn.qkv.weight", 2),
    "attn/value/bias": ZEROS,
    "attn/out/kernel": "attn.proj.weight",
    "attn/out/bias": "attn.proj.bias",
    "layer_scale1": "gamma_1",
    "norm2/scale": "norm2.weight",
    "norm2/bias": "norm2.bias",
    "mlp/fc1/kernel": "mlp.fc1.weight",
    "mlp/fc1/bias": "mlp.fc1.bias",
    "mlp/fc2/kernel": "mlp.fc2.weight",
    "mlp/fc2/bias": "mlp.fc2.bias",
    "mlp/gate/kernel": "mlp.fc1_g.weight",
    "mlp/gate/bias": "mlp.fc1_g.bias",
    "mlp/up/kernel": "mlp.fc1_x.weight",
    "mlp/up/bias": "mlp.fc1_x.bias",
    "mlp/down/kernel": "mlp.fc2.weight",
    "mlp/down/bias": "mlp.fc2.bias",
    "layer_scale2": "gamma_2",
}
_TIMM_QKVB_BLOCK = {
    **_TIMM_BLOCK,
    "attn/query/bias": "attn.q_bias",
    "attn/value/bias": "attn.v_bias",
}
_META = {**_TIMM, "register_tokens": "storage_tokens"}
_META_BLOCK = {
    **_TIMM_BLOCK,
    "attn/query/bias": Third("attn.qkv.bias", 0),
    "attn/value/bias": Third("attn.qkv.bias", 2),
    "layer_scale1": "ls1.gamma",
    "layer_scale2": "ls2.gamma",
    "mlp/gate/kernel": "mlp.w1.weight",
    "mlp/gate/bias": "mlp.w1.bias",
    "mlp/up/kernel": "mlp.w2.weight",
    "mlp/up/bias": "mlp.w2.bias",
    "mlp/down/kernel": "mlp.w3.weight",
    "mlp/down/bias": "mlp.w3.bias",
}
_HF = {
    "cls_token": "embeddings.cls_token",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed/kernel": "embeddings.patch_embeddings.weight",
    "patch_embed/bias": "embeddings.patch_embeddings.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}
_HF_BLOCK = {
    "norm1/scale": "norm1.weight",
    "norm1/bias": "norm1.bias",
    "attn/query/kernel": "attention.q_proj.weight",
    "attn/query/bias": "attention.q_proj.bias",
    "attn/key/kernel": "attention.k_proj.weight",
    "attn/value/kernel": "attention.v_proj.weight",
    "attn/value/bias": "attention.v_proj.bias",
    "attn/out/kernel": "attention.o_proj.weight",
    "attn/out/bias": "attention.o_proj.bias",
    "layer_scale1": "layer_scale1.lambda1",
    "norm2/scale": "norm2.weight",
    "norm2/bias": "norm2.bias",
    "mlp/fc1/kernel": "mlp.up_proj.weight",
    "mlp/fc1/bias": "mlp.up_proj.bias",
    "mlp/fc2/kernel": "mlp.down_proj.weight",
    "mlp/fc2/bias": "mlp.down_proj.bias",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/gate/bias": "mlp.gate_proj.bias",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/up/bias": "mlp.up_proj.bias",
    "mlp/down/kernel": "mlp.down_proj.weight",
    "mlp/down/bias": "mlp.down_proj.bias",
    "layer_scale2": "layer_scale2.lambda1",
}


def _layout(outside: Mapping[str, Source], block: Mapping[str, Source], prefix: str, *markers: str) -> Layout:
    return Layout(
        source=functools.partial(by_table, outside, block, prefix),
        stem="patch_embed/kernel",
        markers=markers,
        ignored=_IGNORED,
    )


#: By name, for messages; of several that fit a file the first counts.
LAYOUTS = {
    "timm with biases of query and value": _layout(
        _TIMM, _TIMM_QKVB_BLOCK, "blocks.", "reg_token", "blocks.0.attn.q_bias"
    ),
    "timm": _layout(_TIMM, _TIMM_BLOCK, "blocks.", "reg_token"),
    "original": _layout(_META, _META_BLOCK, "blocks.", "storage_tokens"),
    "Hugging Face": _layout(_HF, _HF_BLOCK, "layer.", "layer.0.norm1.weight"),
    "Hugging Face, in memory": _layout(_HF, _HF_BLOCK, "model.layer.", "model.layer.0.norm1.weight"),
}
