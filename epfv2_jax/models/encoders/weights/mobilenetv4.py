"""Layouts of MobileNetV4."""

from epfv2_jax.models.encoders.weights.layout import COUNTERS, Layout, same_names

#: By name, for messages.
LAYOUTS = {
    "timm": Layout(
        source=same_names,
        stem="conv_stem/kernel",
        markers=("conv_stem.weight",),
        ignored={
            **COUNTERS,
            r"(blocks\.4|conv_head|norm_head|classifier)\..*": "computed from the features used here",
        },
    ),
}
