"""Compiles with the options that suit the devices."""

import jax

# On a CPU, XLA gives convolutions and reductions to its library YNNPACK, and a train step takes longer with those than
# with XLA's own (benchmarks/compiler.py). Only matrix products are to go there.
_OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}}


def compile_step(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Returns the compiled train step. An option that this version of XLA does not have is left out."""
    try:
        return lowered.compile(_OPTIONS.get(jax.default_backend()))
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()
