"""Measures size, FLOPs and time of the encoders on one thread, beside timm's (PyTorch, channels last).

Command:  python benchmarks/encoders.py [--encoders resnet18 dinov3_vits16] [--size 256] [--images 1] [--repeats 5]

timm's model takes one channel too and is cut where ours ends: no classifier, no pooling. FLOPs are two for each
multiplication in convolutions and matrix products of the forward pass; ours are counted in the traced program, timm's
by PyTorch's counter. "forward" is inference, "both" forward and backward pass of a training step with batch statistics,
down to the gradients of the parameters. Calls alternate, so that other load on the machine slows both alike; a ratio
(ours / timm's; below 1 ours is faster) is the median of the ratios of neighbouring calls, of wall time and of CPU time.
Needs torch and timm for timm's columns; without them they stay empty.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.models.encoders.parts import depthwise_sum

# The variants "qkvb" have the biases of queries and values that DINOv3's released weights have.
TIMM = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "mobilenetv4_conv_small": "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium": "mobilenetv4_conv_medium",
    "dinov3_vits16": "vit_small_patch16_dinov3_qkvb",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3_qkvb",
    "dinov3_vitb16": "vit_base_patch16_dinov3_qkvb",
    "dinov3_vitl16": "vit_large_patch16_dinov3_qkvb",
}

Calls = tuple[Callable[[], Any], Callable[[], Any]]  # forward; forward and backward


def count_flops(jaxpr: core.Jaxpr) -> int:
    """Returns the floating-point operations of all convolutions and matrix products in a program."""
    flops = 0
    for equation in jaxpr.eqns:
        size = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            flops += 2 * size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            flops += 2 * size * math.prod(kernel) // outputs
        elif equation.params.get("name") == depthwise_sum.__name__:
            flops += 2 * size * math.prod(equation.invars[1].aval.shape[:2])
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
        ):
            if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
                flops += count_flops(getattr(inner, "jaxpr", inner))
    return flops


def ours(name: str, images: np.ndarray) -> tuple[int, int, Calls]:
    """Returns parameters, FLOPs and the two calls of our encoder for images (N, H, W)."""
    encoder = ENCODERS[name]()
    x = jnp.asarray(images)[..., None]
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    params = variables["params"]
    statistics = {key: tree for key, tree in variables.items() if key != "params"}

    def loss(params, x):
        maps, updated = encoder.apply({**statistics, "params": params}, x, True, mutable=["batch_stats"])
        return jnp.square(maps[-1]).mean(), updated

    forward = jax.jit(lambda variables, x: encoder.apply(variables, x)[-1])  # all that timm's trunk returns
    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    calls = (
        lambda: jax.block_until_ready(forward(variables, x)),
        lambda: jax.block_until_ready(both(params, x)),
    )
    flops = count_flops(jax.make_jaxpr(encoder.apply)(variables, x).jaxpr)
    return sum(leaf.size for leaf in jax.tree.leaves(params)), flops, calls


def import_timm() -> Any:
    """Returns the module timm.

    Raises:
      ModuleNotFoundError: timm or torch is not installed.
    """
    import torch

    torch.set_num_threads(1)
    try:
        import timm
    except RuntimeError:
        # torchvision's compiled operators do not fit this torch; none is used here, but importing it asks for two.
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import timm
    return timm


def theirs(timm: Any, name: str, images: np.ndarray) -> tuple[int, int, Calls]:
    """Returns parameters, FLOPs and the two calls of timm's trunk for images (N, H, W)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def build():
        if name.startswith("resnet"):
            model = timm.create_model(TIMM[name], in_chans=1, num_classes=0)
            trunk = model.forward_features
        elif name.startswith("mobilenetv4"):
            model = timm.create_model(TIMM[name], in_chans=1, num_classes=0)
            model = trunk = torch.nn.Sequential(model.conv_stem, model.bn1, *model.blocks[:4])
        else:
            model = timm.create_model(TIMM[name], in_chans=1, num_classes=0, dynamic_img_size=True)
            trunk = model.forward_features
        model.to(memory_format=torch.channels_last)
        return model, trunk

    x = torch.from_numpy(images)[:, None].contiguous(memory_format=torch.channels_last)
    timm.layers.set_fused_attn(False)  # the counter does not see into PyTorch's fused attention
    model, trunk = build()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()
        trunk(x)
    timm.layers.set_fused_attn(True)
    model, trunk = build()

    def forward():
        model.eval()
        with torch.inference_mode():
            return trunk(x)

    def both():
        model.train()
        model.zero_grad(set_to_none=True)
        trunk(x).square().mean().backward()

    return sum(p.numel() for p in model.parameters()), counter.get_total_flops(), (forward, both)


def measure(sides: list[Callable[[], Any]], repeats: int) -> np.ndarray:
    """Returns (repeats, side, 2) wall and CPU seconds of alternating calls, after one each to warm up."""
    seconds = np.zeros((repeats, len(sides), 2))
    for i in range(-1, repeats):
        for n, call in enumerate(sides):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if i >= 0:
                seconds[i, n] = time.perf_counter() - wall, time.process_time() - cpu
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS), metavar="NAME")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        timm = import_timm()
    except ModuleNotFoundError as error:
        timm = None
        print(f"timm's columns stay empty ({error}); they need: pip install torch timm\n")

    images = np.random.default_rng(0).normal(size=(args.images, args.size, args.size)).astype(np.float32)
    print(f"{args.images} image(s) of {args.size}x{args.size}, one thread, float32, wall ms: ours, timm's, ratio (CPU)")
    print(f"{'encoder':24}{'parameters, M':>18}{'GFLOP':>18}{'forward':>32}{'both':>32}")
    for name in args.encoders:
        sides = [ours(name, images)]
        if timm is not None and name in TIMM:
            sides.append(theirs(timm, name, images))
        pair = [""] * (2 - len(sides))
        parameters = [f"{count / 1e6:.3f}" for count, _, _ in sides] + pair
        flops = [f"{count / 1e9:.2f}" for _, count, _ in sides] + pair
        row = f"{name:24}" + "".join(f"{text:>9}" for text in parameters + flops)
        for which in range(2):
            seconds = measure([calls[which] for _, _, calls in sides], args.repeats)
            row += "".join(
                f"{text:>9}" for text in [f"{ms:.1f}" for ms in np.median(seconds, axis=0)[:, 0] * 1e3] + pair
            )
            if len(sides) == 2:
                wall, cpu = np.median(seconds[:, 0] / seconds[:, 1], axis=0)
                row += f"{f'{wall:.2f} ({cpu:.2f})':>14}"
            else:
                row += " " * 14
        print(row.rstrip(), flush=True)


if __name__ == "__main__":
    main()
