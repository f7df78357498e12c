"""UnrealEgo on the synthetic benchmark: data and budget of configs/synthetic.py, in two stages.

The first trains the heatmap network, the second the autoencoder on its heatmaps. At size cpu both together take the
time of EPFv2's training; at the others each sees the single frames that EPFv2 sees before its clips.
Command:   python -m epfv2_jax.train --config configs/baselines/unrealego.py:heatmap-cpu
           python -m epfv2_jax.train --config configs/baselines/unrealego.py:pose-cpu
           or -short, -gpu
Hardware:  cpu, short: 2 cores; gpu: one H100
Time:      cpu: 60 and 58 minutes on one core, another training on the other; short: 14 and 16; gpu: not yet measured
Score:     MPJPE on validation people and test activities: cpu 9.21 and 13.10 cm, short 11.19 and 14.51
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from epfv2_jax.geometry.skeleton import EGOBODY3M

SYNTHETIC = pathlib.Path(__file__).resolve().parents[1] / "synthetic.py"

#: As the authors: a heatmap for each joint but the head.
HEATMAP_JOINTS = tuple(name for name in EGOBODY3M.joint_names if name != "b_head")
VIEWS = 4

#: What a size changes of the paper's widths.
WIDTHS = {"cpu": {"decoder_widths": (128,)}, "short": {"decoder_widths": (128,)}, "gpu": {}}
#: Steps of each stage where they are not EPFv2's: benchmarks/training_loop.py has 202 and 205 ms for them, 106 for
#: EPFv2's.
STEPS = {"cpu": 10_000}
STAGES = ("heatmap", "pose")


def get_config(variant: str = "pose-cpu") -> ConfigDict:
    """Returns the recipe of a stage on a size of the synthetic benchmark."""
    stage, _, size = variant.partition("-")
    if stage not in STAGES or size not in WIDTHS:
        raise ValueError(
            f"variant {variant!r} is not STAGE-SIZE; stages: {', '.join(STAGES)}; sizes: {', '.join(WIDTHS)}"
        )
    synthetic = runpy.run_path(str(SYNTHETIC))
    config = synthetic["get_config"](size)
    synthetic["single_frames"](config, STEPS.get(size))
    config.output_dir = f"runs/synthetic_{size}_unrealego_{stage}"
    config.loop.compiler_options = ()  # those of EPFv2 make its steps longer
    config.model = {
        "kind": "unrealego",
        "heatmap_joints": HEATMAP_JOINTS,
        "frozen_heatmaps": stage == "pose",
        "local_contrast": 0.2,
        **WIDTHS[size],
        **synthetic["SIZES"][size]["model"],
    }
    config.optimizer = {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0, "warmup_steps": 50}
    if stage == "heatmap":
        config.objective = {"kind": "heatmap", "weight": float(VIEWS), "heatmap_joints": HEATMAP_JOINTS}
        config.loop.evaluate_every = 0  # errors of a pose that is not trained yet would choose the weights to keep
    else:
        config.objective = {"kind": "unrealego"}
        config.init_from = f"runs/synthetic_{size}_unrealego_heatmap"
        config.init_modules = ("encoder", "heatmaps")
    return config
