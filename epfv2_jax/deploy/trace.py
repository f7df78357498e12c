"""A function of JAX arrays as a raw ONNX graph."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx

from epfv2_jax.deploy.signature import Tensor

#: The first operator set with Gelu as one operation.
OPSET = 20


def to_onnx(function: Callable[..., Any], inputs: Sequence[Tensor], output_names: Sequence[str]) -> onnx.ModelProto:
    """Returns the graph of a function of arrays as jax2onnx writes it, unchecked.

    jax2onnx replaces functions of jax.numpy for the rest of the process.
    """
    # It warns and logs about shapes that it does not know; all shapes are inferred anew from the rewritten graph.
    with warnings.catch_warnings(), _silenced("onnx_ir", "jax2onnx"):
        warnings.simplefilter("ignore")
        import jax2onnx

        return jax2onnx.to_onnx(
            function,
            [tensor.abstract() for tensor in inputs],
            model_name="step",
            opset=OPSET,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(output_names),
            normalization_mode="prefer_native",
        )


@contextlib.contextmanager
def _silenced(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
