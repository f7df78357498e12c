"""Measures what one GPU does: latency, training, labelling, rendering in the loop, and the synthetic benchmark.

Command:  python benchmarks/gpu.py [latency] [train] [label] [render] [benchmark] [--out gpu.json] [--smoke]

latency    the streaming step, one person, four views of 256x256, caches full: milliseconds, median and 99th percentile,
           with images that lie on the device and with images that come from the host.
train      the train step of the recipes for ResNet-18 and the ViT-B and ViT-L teachers: frames/s, and MFU, the share of
           the chip's bf16 peak that goes into matrix products and convolutions (recomputation counts).
label      the label pass with ResNet-18 and ViT-B: frames/s of the whole pass, and of the bare teacher.
render     people sampled on the host and rendered on the device: four-view frames/s of each.
benchmark  configs/synthetic.py:gpu from nothing to its scores.

Each part runs in a process of its own, so that the memory of one is free for the next, and a part that fails does not
cost the others. All of it is meant to take less than 9 minutes on an H100. With --smoke the sizes are tiny: a test of
the script on any machine, whose figures mean nothing.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PARTS = ("latency", "train", "label", "render", "benchmark")
LATENCY = [(encoder, dtype) for encoder in ("resnet18", "mobilenetv4_conv_small") for dtype in ("bfloat16", "float32")]
#: Recipe and clips of a step.
TRAIN = (("egobody3m_resnet18.py", 32), ("teacher_dinov3_vit.py:b16", 16), ("teacher_dinov3_vit.py:l16", 8))


def latency(smoke: bool) -> list[dict]:
    """Latency of `Predictor.step`."""
    import jax
    import numpy as np
    from inputs import make_frames
    from streaming import Stream

    from epfv2_jax import models
    from epfv2_jax.geometry import layout, skeleton
    from epfv2_jax.inference.predictor import Predictor
    from epfv2_jax.models.epfv2.model import EPFv2Config

    size, repeats, found = (64, 5, []) if smoke else (256, 1000, [])
    for encoder, dtype in LATENCY:
        frames = make_frames(1, 1, size)
        model = models.build(EPFv2Config(encoder=encoder, dtype=dtype), skeleton.EGOBODY3M, layout.EGOBODY3M)
        predictor = Predictor(model, jax.jit(model.init)(jax.random.key(0), frames))
        for place, given in (("device", jax.device_put(frames)), ("host", frames)):
            stream, times_ms = Stream(predictor, given), []
            for _ in range(20 + repeats):
                start = time.perf_counter()
                jax.block_until_ready(stream())
                times_ms.append(1e3 * (time.perf_counter() - start))
            p50, p99 = np.percentile(times_ms[20:], [50, 99])
            case = {"encoder": encoder, "dtype": dtype, "size": size, "images": place}
            found.append({**case, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)})
    return found


def train(smoke: bool) -> list[dict]:
    """Frames/s and MFU of the train step, of the recipes' models on random images."""
    import jax
    from inputs import make_batch

    from epfv2_jax.core import sharding
    from epfv2_jax.experiment import dry_run, recipe
    from epfv2_jax.experiment.config import ExperimentConfig
    from epfv2_jax.profiling import cost

    chip, found = cost.chip_of(jax.devices()[0].device_kind), []
    for name, clips in TRAIN[:1] if smoke else TRAIN:
        changes = [("data.batch_size", str(1 if smoke else clips))]
        if smoke:
            changes += [("data.clip_frames", "2"), ("dataset.conversion.image_size_hw", "(64, 64)")]
        config = recipe.load(ExperimentConfig, str(HERE.parent / "configs" / name), changes)
        mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
        frames = config.data.batch_size * config.data.clip_frames
        size = config.dataset.conversion.image_size_hw[0]
        batch = sharding.put_batch(make_batch(config.data.batch_size, config.data.clip_frames, size), mesh)
        try:
            parts = dry_run.trainable(config, mesh)
            state, key = parts.initial_state(), parts.root_key()
            step = parts.step_fn.lower(state, batch, key).compile()
            for i in range(3 if smoke else 13):
                if i == (1 if smoke else 3):
                    jax.block_until_ready(state)
                    start = time.perf_counter()
                state, _ = step(state, batch, key)
            jax.block_until_ready(state)
        except jax.errors.JaxRuntimeError as e:  # out of memory
            found.append({"recipe": name, "clips": clips, "error": str(e).splitlines()[0][:200]})
            continue
        step_s = (time.perf_counter() - start) / (2 if smoke else 10)
        mfu = cost.compiled_cost(step).flops / step_s / chip.peak_bf16_flops if chip else None
        case = {"recipe": name, "clips": config.data.batch_size, "frames": frames, "size": size}
        found.append({**case, "step_ms": round(1e3 * step_s, 2), "frames_per_s": round(frames / step_s, 1), "mfu": mfu})
        del state, step, parts
    return found


def label(smoke: bool) -> list[dict]:
    """Frames/s of the label pass."""
    import label_pass

    found = []
    for encoder in ("small",) if smoke else ("resnet18", "dinov3_vitb16"):
        size, units, unit_frames, slots = (32, 2, 64, 2) if smoke else (256, 32, 128, 16)
        with tempfile.TemporaryDirectory() as folder:
            pass_fps, bare_fps, _ = label_pass.measure_teacher(
                pathlib.Path(folder), encoder, size, units=units, unit_frames=unit_frames, slots=slots, repeats=2
            )
        found.append({"encoder": encoder, "size": size, "pass_frames_per_s": pass_fps, "bare_frames_per_s": bare_fps})
    return found


def render(smoke: bool) -> list[dict]:
    """Frames/s of rendering in the loop."""
    from rendering import measure_stream

    return [measure_stream(size=size, clips=4 if smoke else 128, steps=2 if smoke else 10) for size in (48, 128)]


def benchmark(smoke: bool) -> list[dict]:
    """The scores of configs/synthetic.py:gpu and how long they take."""
    variant = "cpu" if smoke else "gpu"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "epfv2_jax.train", "--config", f"configs/synthetic.py:{variant}"]
        command += [f"--config.output_dir={folder}/run", f"--config.dataset.directory={folder}/records"]
        command += [f"--config.dataset.source_directory={folder}/zips"]
        if smoke:
            command += ["--config.step.steps=4", "--config.data.warmup.steps=2", "--config.evaluation.pictures=0"]
            command += [f"--config.dataset.synthetic.{split}_sequences=2" for split in ("validation", "test")]
        start = time.perf_counter()
        subprocess.run(command, cwd=HERE.parent, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - start
        metrics = json.loads((pathlib.Path(folder) / "run" / "evaluation" / "metrics.json").read_text())
    scores = {"metrics": metrics["metrics"], "baselines": metrics["baselines"]}
    return [{"recipe": f"synthetic.py:{variant}", "seconds": round(seconds, 1), **scores}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--out", default="gpu.json", type=pathlib.Path)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        found = globals()[args.part](args.smoke)
        device = None
        if args.part != "benchmark":  # its training process has the device
            import jax

            device = jax.devices()[0].device_kind
        print(json.dumps({"device": device, "found": found}))
        return
    report = {"parts": {}}
    for part in args.parts or PARTS:
        start = time.perf_counter()
        command = [sys.executable, __file__, "--part", part, *(["--smoke"] if args.smoke else [])]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        lines = process.stdout.splitlines()
        result = json.loads(lines[-1]) if process.returncode == 0 and lines else {"error": process.returncode}
        report["device"] = result.pop("device", None) or report.get("device")
        report["parts"][part] = {**result, "seconds": round(time.perf_counter() - start, 1)}
        print(f"{part}: {json.dumps(report['parts'][part], indent=1)}", flush=True)
        args.out.write_text(json.dumps(report, indent=1))  # after each part: a run that is cut off keeps the others
    print(f"{report['device']}: {args.out}")


if __name__ == "__main__":
    main()
