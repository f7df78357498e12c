"""Runs an exported graph in ONNX Runtime. Needs neither JAX nor a checkpoint."""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from epfv2_jax.core import checks, files

FORMAT_VERSION = 1
#: Prefix of the outputs that are the next state: output next_NAME becomes input NAME.
NEXT = "next_"
_REMEDY = "export the checkpoint again with python -m epfv2_jax.export"
_MAX_ELEMENTS = 1 << 28  # of an input: our choice
#: What inputs of a graph may hold.
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OnnxSession:
    """Runs an exported graph frame by frame and keeps the state of its streams. `metadata` is that of the file."""

    def __init__(self, path: str | os.PathLike, threads: int = 1):
        """Opens the graph at `path` on the CPU.

        Raises:
          ValueError: there is no such file, `epfv2_jax.export` did not write it, or its weights lie in other files.
        """
        check_file(path)
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Exception: the runtime raises its own classes.
        with checks.naming(f"{path}: ONNX Runtime refuses this graph", Exception, _REMEDY):
            self._session = ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
            properties = self._session.get_modelmeta().custom_metadata_map
            self._output_names = [output.name for output in self._session.get_outputs()]
        self.metadata = decode_metadata(path, properties)
        self._inputs = {}
        for port in self._session.get_inputs():
            with checks.naming(f"{path}: input {port.name}", remedy=_REMEDY):
                checks.one_of(DTYPES, type=port.type)
                for axis, size in enumerate(port.shape):
                    checks.instance(f"size of axis {axis}", size, int, "a number")
                checks.within(0, _MAX_ELEMENTS, elements=math.prod(port.shape))
            self._inputs[port.name] = (tuple(port.shape), DTYPES[port.type])
        self._state_names = [name for name in self._inputs if NEXT + name in self._output_names]
        self.reset()

    def reset(self) -> None:
        """Starts new streams: sets all state to zero."""
        self.state = {name: np.zeros(*self._inputs[name]) for name in self._state_names}

    def step(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of one frame by name, without the next state, which the session keeps.

        Args:
          inputs: every input by name, without the state.

        Raises:
          ValueError: an input is missing, unknown, of another shape or type, or holds values that are not finite.
        """
        expected = {name: spec for name, spec in self._inputs.items() if name not in self.state}
        if set(inputs) != set(expected):
            raise ValueError(f"inputs: {sorted(set(inputs) ^ set(expected))} are missing, or unknown to the graph")
        for name, (shape, dtype) in expected.items():
            value = inputs[name]
            checks.array(name, value, shape, dtype, "as the graph was exported")
            if dtype == np.float32:
                checks.finite(name, value, "leave the frame out and raise frame_gap")
        with checks.naming("ONNX Runtime cannot run this graph", Exception, _REMEDY):
            values = self._session.run(None, {**inputs, **self.state})
        outputs = dict(zip(self._output_names, values, strict=True))
        self.state = {name: outputs.pop(NEXT + name) for name in self.state}
        return outputs


def check_file(path: str | os.PathLike) -> None:
    """Raises unless there is an ONNX file at `path` that holds its own weights.

    Raises:
      ValueError: there is no file, it cannot be parsed, or its weights lie in other files.
    """
    if not files.on_disk(path, "copy the graph there").is_file():
        raise ValueError(f"{path}: no such file; make it with python -m epfv2_jax.export")
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{path}: reading a graph needs the extra: pip install 'epfv2_jax[export]'") from error
    with checks.naming(f"{path}: not an ONNX file", Exception):  # protobuf raises its own classes
        model = onnx.load(os.fspath(path), load_external_data=False)
    outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ValueError(
            f"{path}: {len(outside)} tensors lie in other files ({outside[0]}, ...); such a graph may read any "
            "file and is not run: export it again, or save it with its data inside"
        )


def decode_metadata(path: str | os.PathLike, properties: Mapping[str, str]) -> dict[str, Any]:
    """Returns the metadata of a graph, decoded from JSON.

    Raises:
      ValueError: the graph is not one that `epfv2_jax.export` wrote in this format.
    """
    checks.equal(f"{path}: format_version", properties.get("format_version"), str(FORMAT_VERSION), _REMEDY)
    return {key: files.parse_json(text, f"{path}: metadata {key!r}", _REMEDY) for key, text in properties.items()}
