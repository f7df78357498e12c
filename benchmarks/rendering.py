"""Measures four-view frames rendered a second, and whole sequences with motion, projections, JPEG and zip.

Command:  taskset -c 0,1 python benchmarks/rendering.py [--image_width 80] [--frames 96] [--repetitions 3]

After compilation, best of the repetitions.
"""

import argparse
import pathlib
import tempfile
import time

import jax

from epfv2_jax.data.synthetic import renderer, sequence, writer
from epfv2_jax.data.synthetic.config import SyntheticConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_width", type=int, default=80)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    config = SyntheticConfig(frames=args.frames, image_width=args.image_width)
    rig = renderer.scaled_rig(config.image_width)
    rays = jax.device_put(renderer.make_rays(rig))
    rendering_s, whole_s = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.repetitions + 1):
            start = time.perf_counter()
            sample = sequence.sample_sequence(config, "train", i)
            sampled = time.perf_counter()
            sequence.render_sequence(sample, rig, rays)
            rendered = time.perf_counter()
            writer.write_sequence(sample, rig, rays, pathlib.Path(folder), f"sequence{i}")
            written = time.perf_counter()
            if i:
                rendering_s.append(rendered - sampled)
                whole_s.append(sampled - start + written - rendered)
    sizes = ", ".join(f"{w:.0f}x{h:.0f}" for w, h in rig.cameras.size_px)
    print(f"images {sizes}; {args.frames} frames a sequence")
    print(f"rendering      {args.frames / min(rendering_s):7.1f} four-view frames/s")
    print(f"whole sequence {args.frames / min(whole_s):7.1f} four-view frames/s")


if __name__ == "__main__":
    main()
