"""The LSTM baseline on the synthetic benchmark: data, budget and objective of configs/synthetic.py, another model.

In the spirit of EgoBody3M's tracker, whose exact network is not public: all sizes are our choice. At size cpu the
budget is EPFv2's time, at the others its steps.
Command:   python -m epfv2_jax.train --config configs/baselines/lstm.py:cpu
           or :short, :gpu
Hardware:  cpu, short: 2 cores; gpu: one H100
Time:      cpu: 129 minutes on one core, another training on the other; short: 108 beside other work; gpu: not yet
           measured
Score:     MPJPE on validation people and test activities: cpu 5.18 and 10.22 cm, short 6.54 and 10.73
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SYNTHETIC = pathlib.Path(__file__).resolve().parents[1] / "synthetic.py"

#: Steps on single frames, and with those on clips, where they are not EPFv2's. benchmarks/training_loop.py has 266 ms
#: for one on single frames, 106 for EPFv2's. Clips have a quarter, as at size short: recurrence learns from
#: clips alone.
STEPS = {"cpu": (10_000, 13_300)}


def get_config(size: str = "cpu") -> ConfigDict:
    """Returns the recipe of a size of the synthetic benchmark."""
    synthetic = runpy.run_path(str(SYNTHETIC))
    config = synthetic["get_config"](size)
    config.output_dir = f"runs/synthetic_{size}_lstm"
    if size in STEPS:
        config.data.warmup.steps, config.step.steps = STEPS[size]
    config.loop.compiler_options = ()  # those of EPFv2 make its steps longer
    config.model = {"kind": "lstm", "local_contrast": 0.2, **synthetic["SIZES"][size]["model"]}
    return config
