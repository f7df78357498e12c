"""Layouts of ResNet."""

from epfv2_jax.models.encoders.weights.layout import COUNTERS, Layout, same_names

#: By name, for messages.
LAYOUTS = {
    "torchvision or timm": Layout(
        source=same_names,
        stem="conv1/kernel",
        markers=("layer1.0.conv1.weight",),
        ignored={**COUNTERS, r"fc\..*": "classifier"},
    ),
}
