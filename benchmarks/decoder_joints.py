"""Measures the cost of decoding 260 keypoints against 26, on one thread.

Command:  python benchmarks/decoder_joints.py [--frames 16] [--repeats 200]

Prints, for each part of the model, time and FLOPs for both numbers of joints and their ratios. `decoders` are the two
decoders: their token does not depend on the number of joints. Around them, `after the encoder` adds what must grow: the
projection of every keypoint into every view and the last layers of the heads. `whole frame` adds ResNet-18 on four
256x256 images. Calls of both sizes alternate, so that other load on the machine slows both alike; times are medians,
and the ratio is the median of the ratios of neighbouring calls.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import time

import jax
import numpy as np
from inputs import make_frames

from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M, Skeleton
from epfv2_jax.models.attention import position_code_2d
from epfv2_jax.models.epfv2.decoder import ViewTokens
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config, StreamState
from epfv2_jax.structs import Frames

COPIES = (1, 10)  # of EgoBody3M's 26 joints
SIZE = 256


def repeated(copies: int) -> Skeleton:
    """Returns `copies` of EgoBody3M's joints, with numbered names, that hang on one hidden root."""
    J = EGOBODY3M.num_joints

    def shifted(joints: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(j if j < 0 else j + copy * J for copy in range(copies) for j in joints)

    return Skeleton(
        name=f"egobody3m x {copies}",
        joint_names=tuple(f"{name}_{copy}" for copy in range(copies) for name in EGOBODY3M.joint_names),
        parents=shifted(EGOBODY3M.parents),
        mirror=shifted(EGOBODY3M.mirror),
        root_between=EGOBODY3M.root_between,
        groups=(),
        rest_offsets_m=EGOBODY3M.rest_offsets_m * copies,
        rest_root_headset_m=EGOBODY3M.rest_root_headset_m,
    )


def run_decoders(module: EPFv2, features, token, conditioning, frames: Frames, state: StreamState):
    """Returns the token after both decoders, with token and conditioning given."""
    B, T, V, h, w, C = features.shape
    values = features.reshape(B, T, V, h * w, C)
    keys = values + np.broadcast_to(position_code_2d(h, w, C), values.shape)
    views = ViewTokens(keys=keys, values=values, valid=frames.view_valid)
    masks = (frames.frame_valid, frames.frame_gap)
    token, _ = module.proposal_decoder(token, views, None, *masks, state.caches[:1])
    token, _ = module.refinement_decoder(token, views, conditioning, *masks, state.caches[1:])
    return token


def programs(skeleton: Skeleton, num_frames: int) -> dict[str, tuple]:
    """Returns name -> (compiled function, arguments) for a model of these joints."""
    model = EPFv2(EPFv2Config(body="keypoints"), skeleton, layout.EGOBODY3M)
    frames = make_frames(1, num_frames, SIZE)
    variables = jax.jit(model.init)(jax.random.key(0), make_frames(1, 1, SIZE))
    state = model.initial_state(1)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(1, num_frames, 4, SIZE // 32, SIZE // 32, 128)).astype(np.float32)
    token = rng.normal(size=(1, num_frames, 128)).astype(np.float32)
    conditioning = rng.normal(size=(1, num_frames, 4, 128)).astype(np.float32)
    blind = frames.replace(images=frames.images[..., :1, :1])

    def decoders(v, *args):
        return model.apply(v, *args, method=run_decoders)

    def after_encoder(v, *args):
        return model.apply(v, *args, method="decode")

    def whole(v, *args):
        return model.apply(v, *args, method="step")

    calls = {
        "decoders": (decoders, (variables, features, token, conditioning, blind, state)),
        "after the encoder": (after_encoder, (variables, features, blind, state)),
        "whole frame": (whole, (variables, frames, state)),
    }
    return {name: (jax.jit(f).lower(*args).compile(), jax.device_put(args)) for name, (f, args) in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip; 1 is streaming")
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sizes = [programs(repeated(n), args.frames) for n in COPIES]
    print(f"{args.frames} frames a call, four views, one thread; per frame:")
    print(f"{'':18s} {'26 joints':>12s} {'260 joints':>12s} {'time ratio':>11s} {'FLOP ratio':>11s}")
    for name in sizes[0]:
        repeats = max(5, args.repeats // 40) if name == "whole frame" else args.repeats
        times = np.zeros((repeats, len(COPIES)))
        for i in range(-2, repeats):
            for n, size in enumerate(sizes):
                compiled, inputs = size[name]
                start = time.perf_counter()
                jax.block_until_ready(compiled(*inputs))
                if i >= 0:
                    times[i, n] = time.perf_counter() - start
        few, many = np.median(times, axis=0) / args.frames * 1e6
        ratio = np.median(times[:, 1] / times[:, 0])
        flops = [size[name][0].cost_analysis()["flops"] for size in sizes]
        print(f"{name:18s} {few:9.0f} us {many:9.0f} us {ratio:11.3f} {flops[1] / flops[0]:11.3f}")


if __name__ == "__main__":
    main()
