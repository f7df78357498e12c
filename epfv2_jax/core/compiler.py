"""Compiles a train step with options of XLA."""

import logging
from collections.abc import Sequence

import jax

_log = logging.getLogger(__name__)


def compile_step(lowered: jax.stages.Lowered, options: Sequence[str] = ()) -> jax.stages.Compiled:
    """Returns the compiled step.

    Args:
      lowered: the step.
      options: NAME=VALUE, as in XLA_FLAGS but without the dashes. They change how long a step takes, hardly what it
        computes, and come and go with versions of XLA: if there is one that this version does not have, all are left
        out, with a warning.

    Raises:
      jax.errors.JaxRuntimeError: an option has an impossible value.
    """
    try:
        return lowered.compile(dict(option.split("=", 1) for option in options))
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        _log.warning("compiling without loop.compiler_options: %s", error)
        return lowered.compile()
