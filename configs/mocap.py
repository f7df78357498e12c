"""Motion capture (CMU) seen by the synthetic rig: the full model and the paper's ablations on real motion.

Put the clips (NN.asf, NN_MM.amc) below data/cmu: subject 01 and 02_01 to 02_08 train; 02_09, 02_10 and 11_01 are held
out.
Command:   python -m epfv2_jax.train --config configs/mocap.py[:full|:no_temporal|:no_projection]
The data used in this project was obtained from mocap.cs.cmu.edu. The database was created with funding from NSF
EIA-0196217.
"""

from ml_collections import ConfigDict

CLIPS = "data/cmu"
TRAIN = tuple(f"{CLIPS}/01_{i:02d}.amc" for i in range(1, 15)) + tuple(f"{CLIPS}/02_{i:02d}.amc" for i in range(1, 9))
TEST = tuple(f"{CLIPS}/{name}.amc" for name in ("02_09", "02_10", "11_01"))

VARIANTS = {
    "full": {},
    "no_temporal": {"temporal": False},  # ablation (2) of the paper
    "no_projection": {"projection_conditioning": False},  # ablation (3)
}


def get_config(variant: str = "full") -> ConfigDict:
    """Returns the recipe of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    return config
