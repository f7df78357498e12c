"""Measures four-view frames rendered a second: for files, with motion, projections, JPEG and zip; and in the loop.

Command:  taskset -c 0,1 python benchmarks/rendering.py [--image_width 80] [--frames 96] [--size 48] [--repetitions 3]

After compilation, best of the repetitions. In the loop: people sampled by one thread of the host, frames rendered on
the device.
"""

import argparse
import pathlib
import tempfile
import time

import jax

from epfv2_jax.data.pipeline import DataConfig
from epfv2_jax.data.synthetic import renderer, rigs, sequence, stream, writer
from epfv2_jax.data.synthetic.config import SyntheticConfig


def measure_stream(size: int, clips: int = 64, steps: int = 8) -> dict[str, float]:
    """Returns frames/s of sampling and of rendering single frames of `size` x `size` pixels in the loop."""
    data = DataConfig(source="synthetic", clip_frames=1, batch_size=clips, read_threads=0)
    batches = stream.unpainted_batches(SyntheticConfig(frames=48, frame_step=4), data, (size, size))
    paint = jax.jit(stream.Painter((size, size)))
    jax.block_until_ready(paint(next(batches)))
    start = time.perf_counter()
    unpainted = [next(batches) for _ in range(steps)]
    sampled_s = time.perf_counter() - start
    unpainted = jax.block_until_ready(jax.device_put(unpainted))
    start = time.perf_counter()
    jax.block_until_ready([paint(batch) for batch in unpainted])
    rendered_s = time.perf_counter() - start
    frames = clips * steps
    return {
        "size": size,
        "sampled_per_s": round(frames / sampled_s, 1),
        "rendered_per_s": round(frames / rendered_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_width", type=int, default=80)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--size", type=int, default=48, help="pixels, in the loop")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    config = SyntheticConfig(frames=args.frames, image_width=args.image_width)
    rig = rigs.open_headset(None).scaled(config.image_width)
    rays = jax.device_put(renderer.make_rays(rig))
    rendering_s, whole_s = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.repetitions + 1):
            start = time.perf_counter()
            sample = sequence.sample_sequence(config, "train", i)
            sampled = time.perf_counter()
            grey, _ = sequence.render_sequence(sample, rig, rays)
            rendered = time.perf_counter()
            writer.write_zips(sample, rig, grey, pathlib.Path(folder), f"sequence{i}")
            written = time.perf_counter()
            if i:
                rendering_s.append(rendered - sampled)
                whole_s.append(written - start)
    sizes = ", ".join(f"{w:.0f}x{h:.0f}" for w, h in rig.cameras.size_px)
    print(f"images {sizes}; {args.frames} frames a sequence")
    print(f"rendering      {args.frames / min(rendering_s):7.1f} four-view frames/s")
    print(f"whole sequence {args.frames / min(whole_s):7.1f} four-view frames/s")
    in_loop = [measure_stream(args.size) for _ in range(args.repetitions)]
    best = {name: max(found[name] for found in in_loop) for name in in_loop[0]}
    print(f"in the loop, {args.size}x{args.size}, single frames")
    print(f"sampled        {best['sampled_per_s']:7.1f} four-view frames/s, one thread")
    print(f"rendered       {best['rendered_per_s']:7.1f} four-view frames/s")


if __name__ == "__main__":
    main()
