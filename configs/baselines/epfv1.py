"""EgoPoseFormer v1 on the synthetic benchmark: data and budget of configs/synthetic.py, in two stages.

The first trains encoder and neck on heatmaps, the second everything on poses. At size cpu both together take the time
of EPFv2's training; at the others each sees the single frames that EPFv2 sees before its clips.
Command:   python -m epfv2_jax.train --config configs/baselines/epfv1.py:heatmap-cpu
           python -m epfv2_jax.train --config configs/baselines/epfv1.py:pose-cpu
           or -short, -gpu
Hardware:  cpu, short: 2 cores; gpu: one H100
Time:      cpu: 38 and 65 minutes on one core, another training on the other; short: 15 and 33 beside other work; gpu:
           not yet measured
Score:     MPJPE on validation people and test activities: cpu 6.26 and 11.22 cm, short 8.06 and 12.47
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from epfv2_jax.geometry.skeleton import EGOBODY3M

SYNTHETIC = pathlib.Path(__file__).resolve().parents[1] / "synthetic.py"

#: As the authors: a heatmap for each joint but the head.
HEATMAP_JOINTS = tuple(name for name in EGOBODY3M.joint_names if name != "b_head")
#: Weight decay of each stage, the authors'. Their learning rate is the same in both.
WEIGHT_DECAY = {"heatmap": 5e-3, "pose": 5e-4}
#: What a size changes of the authors' widths: their neck takes more than ten times as long as the tiny encoder.
NARROW = {"width": 64, "ffn_width": 256}
WIDTHS = {"cpu": NARROW, "short": NARROW, "gpu": {}}
#: Steps of each stage where they are not EPFv2's: benchmarks/training_loop.py has 141 and 325 ms for them, 107 to 114
#: for EPFv2's.
STEPS = {"cpu": 9_000}


def get_config(variant: str = "pose-cpu") -> ConfigDict:
    """Returns the recipe of a stage on a size of the synthetic benchmark."""
    stage, _, size = variant.partition("-")
    if stage not in WEIGHT_DECAY or size not in WIDTHS:
        raise ValueError(
            f"variant {variant!r} is not STAGE-SIZE; stages: {', '.join(WEIGHT_DECAY)}; sizes: {', '.join(WIDTHS)}"
        )
    synthetic = runpy.run_path(str(SYNTHETIC))
    config = synthetic["get_config"](size)
    synthetic["single_frames"](config, STEPS.get(size))
    config.output_dir = f"runs/synthetic_{size}_epfv1_{stage}"
    config.model = {"kind": "epfv1", "local_contrast": 0.2, **WIDTHS[size], **synthetic["SIZES"][size]["model"]}
    weight_decay = WEIGHT_DECAY[stage]
    config.optimizer = {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": weight_decay, "warmup_steps": 50}
    if stage == "heatmap":
        config.model.update({"heatmap_head": True, "heatmap_joints": HEATMAP_JOINTS})
        config.objective = {"kind": "heatmap", "heatmap_joints": HEATMAP_JOINTS}
        config.loop.evaluate_every = 0  # errors of a pose that is not trained yet would choose the weights to keep
    else:
        config.objective = {"kind": "distances"}
        config.init_from = f"runs/synthetic_{size}_epfv1_heatmap"
        config.init_modules = ("encoder", "neck")
    return config
