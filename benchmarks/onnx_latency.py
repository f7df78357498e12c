"""Measures the latency of exported graphs in ONNX Runtime, one thread, beside the same encoders exported from torch.

Command:  python benchmarks/onnx_latency.py [--torch_python PYTHON] [--size 256] [--repeats 30] [--encoders NAME ...]

The graphs of one line are called in turn, so that other load on the machine slows all of them alike; a ratio is the
median of the ratios of neighbouring calls. Weights are random. Torch exports in a process of its own: PYTHON needs
torch, onnxscript, timm and torchvision; without it the lines that compare with torch are left out.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import onnx

from epfv2_jax import checkpoints, models, structs
from epfv2_jax.deploy import exporter, gates, rules, sequences, trace
from epfv2_jax.deploy.graph import Graph
from epfv2_jax.deploy.signature import Tensor
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.models.baselines.egoposeformer_v1.model import EPFv1Config
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.models.epfv2.model import EPFv2Config

VIEWS = 4
#: Largest ratio wanted of an encoder exported from here against the same one exported from torch.
ENCODER_LIMITS = {"resnet18": 1.05, "mobilenetv4_conv_small": 1.1, "dinov3_vits16": 1.1}
#: Largest share wanted of everything after the encoder in the encoder's time.
REST_LIMITS = {"resnet18": 0.03, "mobilenetv4_conv_small": 0.15}
WHOLE_LIMIT = 1.08
#: Of EPFv2's whole step on two views in that of EgoPoseFormer v1, both with a ResNet-18.
TWO_VIEWS_LIMIT = 0.65
TWO_VIEWS = {"two_views": EPFv2Config(encoder="resnet18"), "v1_two_views": EPFv1Config(encoder="resnet18")}

# Run by the other interpreter: writes NAME.torch.onnx, the same network as the encoder NAME, for each name.
TORCH_EXPORT = """
import sys, torch
folder, views, size, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
try:
    import torchvision
except RuntimeError:  # compiled for another torch; its operators are not needed here
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
import timm

class Part(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        if name == "resnet18":
            self.net = torchvision.models.resnet18()
            self.net.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        elif name == "mobilenetv4_conv_small":
            self.net = timm.create_model(name, in_chans=1, num_classes=0)
        else:
            self.net = timm.create_model("vit_small_patch16_dinov3", in_chans=1, num_classes=0, img_size=size)
    def forward(self, x):
        net = self.net
        if self.name == "resnet18":
            x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
            return net.layer4(net.layer3(net.layer2(net.layer1(x))))
        if self.name == "mobilenetv4_conv_small":
            return net.blocks[:4](net.bn1(net.conv_stem(x)))
        return net.forward_features(x)[:, net.num_prefix_tokens:]

for name in names:
    model = Part(name).eval()
    torch.onnx.export(model, (torch.randn(views, 1, size, size),), f"{folder}/{name}.torch.onnx", dynamo=True,
                      external_data=False, verbose=False)
"""


def some_weights(module: nn.Module, *inputs: Any) -> Any:
    """Returns initial weights of a network, without zeros and ones that a graph could leave out.

    Kernels stay as they are drawn. Arbitrary ones make rotations of nearly parallel vectors, which no two programs
    compute alike in float32.
    """
    rng = np.random.default_rng(0)

    def move(path, leaf):
        if path[-1].key in ("scale", "var"):
            leaf = leaf * rng.uniform(0.5, 1.5, leaf.shape)
        elif path[-1].key in ("bias", "mean"):
            leaf = leaf + rng.normal(0, 0.1, leaf.shape)
        return np.asarray(leaf, np.float32)

    return jax.tree_util.tree_map_with_path(move, jax.jit(module.init)(jax.random.key(0), *inputs))


def export_encoder(name: str, size: int, path: pathlib.Path) -> None:
    """Writes the encoder alone: images (V, 1, H, W) -> features (V, h, w, C), as in a whole graph."""
    encoder = ENCODERS[name]()
    variables = some_weights(encoder, np.zeros((VIEWS, size, size, 1), np.float32))
    tensor = Tensor(name="images", shape=(VIEWS, 1, size, size), dtype="float32", meaning="normalised")
    model = trace.to_onnx(
        lambda x: encoder.apply(variables, x.reshape(VIEWS, size, size, 1))[-1], [tensor], ["features"]
    )
    graph = Graph(model)
    rules.simplify(graph)
    exported = graph.model()
    gates.check(exported)
    onnx.save(exported, path)


def export_step(config: EPFv2Config | EPFv1Config, size: int, path: pathlib.Path, views: int = VIEWS) -> None:
    """Writes the whole streaming step of a model, compared with JAX."""
    rig = layout.RigLayout(
        name="benchmark", view_names=tuple(f"view_{v}" for v in range(views)), upright_turns=(0,) * views
    )
    model = models.build(config, skeleton.EGOBODY3M, rig)
    variables = some_weights(model, structs.blank_frames(1, 1, views, (size, size)))
    about = checkpoints.About(experiment={}, skeleton=model.skeleton, layout=rig, image_size_hw=(size, size))
    trained = checkpoints.Trained(model=model, variables=variables, about=about, step=0, kind="latest")
    exporter.export(trained, path)


def session(path: pathlib.Path) -> Callable[[], object]:
    """Returns a call of the graph at `path` on fixed random inputs, on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    opened = ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = {}
    _, views, height, width = opened.get_inputs()[0].shape
    given = sequences.random_sequence(1, views, (height, width), 1).inputs(0)
    for spec in opened.get_inputs():
        if spec.type == "tensor(float)" and len(opened.get_inputs()) == 1:
            inputs[spec.name] = rng.normal(size=spec.shape).astype(np.float32)
        else:
            zero = np.zeros(spec.shape, {"tensor(bool)": bool, "tensor(int32)": np.int32}.get(spec.type, np.float32))
            inputs[spec.name] = given.get(spec.name, zero)
    return lambda: opened.run(None, inputs)


def interleaved_ms(calls: list[Callable[[], object]], repeats: int) -> np.ndarray:
    """Returns times (repeats, calls), ms, after two rounds that are not counted."""
    times = np.zeros((repeats, len(calls)))
    for i in range(-2, repeats):
        for n, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if i >= 0:
                times[i, n] = 1e3 * (time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", help="interpreter with torch, onnxscript, timm and torchvision")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODER_LIMITS), choices=list(ENCODER_LIMITS))
    parser.add_argument("--keep", help="folder for the graphs; those that are there already are used")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [name for name in args.encoders if not (folder / f"{name}.torch.onnx").exists()]
        if args.torch_python and missing:
            command = [args.torch_python, "-c", TORCH_EXPORT, os.fspath(folder), str(VIEWS), str(args.size), *missing]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name in args.encoders:
            if not (folder / f"{name}.encoder.onnx").exists():
                export_encoder(name, args.size, folder / f"{name}.encoder.onnx")
            if name in REST_LIMITS and not (folder / f"{name}.step.onnx").exists():
                export_step(EPFv2Config(encoder=name), args.size, folder / f"{name}.step.onnx")
        for kind, config in TWO_VIEWS.items() if "resnet18" in args.encoders else ():
            if not (folder / f"resnet18.{kind}.onnx").exists():
                export_step(config, args.size, folder / f"resnet18.{kind}.onnx", views=2)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(f"{VIEWS} views of {args.size}x{args.size}, batch 1, one thread, medians of {args.repeats} rounds")
        for name in args.encoders:
            kinds = [k for k in ("encoder", "step", *TWO_VIEWS, "torch") if (folder / f"{name}.{k}.onnx").exists()]
            times = interleaved_ms([session(folder / f"{name}.{kind}.onnx") for kind in kinds], args.repeats)
            column = {kind: times[:, n] for n, kind in enumerate(kinds)}
            print(f"{name}: " + ", ".join(f"{kind} {np.median(t):.2f} ms" for kind, t in column.items()))
            if "torch" in column:
                print_ratio("encoder / torch", column["encoder"] / column["torch"], ENCODER_LIMITS[name])
            if "step" in column:
                rest = (column["step"] - column["encoder"]) / column["encoder"]
                print_ratio("after the encoder / encoder", rest, REST_LIMITS[name])
            if "step" in column and "torch" in column and name == "resnet18":
                print_ratio("whole step / torch's encoder", column["step"] / column["torch"], WHOLE_LIMIT)
            if "two_views" in column:
                ratios = column["two_views"] / column["v1_two_views"]
                print_ratio("whole step on two views / EgoPoseFormer v1's", ratios, TWO_VIEWS_LIMIT)


def print_ratio(name: str, ratios: np.ndarray, limit: float) -> None:
    """Prints a line with the median ratio and the middle half of all."""
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    verdict = "ok" if middle <= limit else "ABOVE"
    print(f"  {name}: {middle:.3f} (half of them {low:.3f} to {high:.3f}); wanted at most {limit}: {verdict}")


if __name__ == "__main__":
    main()
