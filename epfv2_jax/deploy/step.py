"""One frame's step of a model as a function of the named tensors of a graph, and what JAX computes with it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from epfv2_jax.deploy import signature
from epfv2_jax.deploy.golden import Golden
from epfv2_jax.deploy.sequences import FrameSequence
from epfv2_jax.deploy.session import NEXT
from epfv2_jax.deploy.signature import Tensor
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.models.base import PoseModel

#: Arrays in the order of the graph's inputs -> outputs by name, the next state among them.
Step = Callable[..., dict[str, jax.Array]]


class Exporter(Protocol):
    """Maps the state of one kind of model to named tensors of a graph, all zeros in a stream that has seen nothing."""

    model: PoseModel  # as it is deployed; it computes in float32

    def state_tensors(self, batch: int) -> tuple[Tensor, ...]:
        """Returns the tensors that hold the state of `batch` streams."""

    def read_state(self, given: Mapping[str, jax.Array], batch: int) -> Any:
        """Returns the model's state from those tensors by name."""

    def write_state(self, state: Any) -> dict[str, jax.Array]:
        """Returns those tensors by name from the model's state."""

    def metadata(self) -> dict[str, Any]:
        """Returns what a user of the graph needs to know about this kind of model; JSON-ready."""


def inputs_of(exporter: Exporter, image_size_hw: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
    """Returns the inputs of the graph, in order: the frame, then the state."""
    num_views = exporter.model.layout.num_views
    return (*signature.frame_inputs(num_views, image_size_hw, batch), *exporter.state_tensors(batch))


def frame_step(exporter: Exporter, variables: Any, inputs: Sequence[Tensor], camera_model: Model) -> Step:
    """Returns the step of one frame, for cameras of a lens model. It calls the model's own `step`."""

    def step(*arrays: jax.Array) -> dict[str, jax.Array]:
        given = {tensor.name: array for tensor, array in zip(inputs, arrays, strict=True)}
        frames = signature.frames_of(given, camera_model)
        state = exporter.read_state(given, given["images"].shape[0])
        predictions, state = exporter.model.apply(variables, frames, state, method="step")
        outputs = signature.outputs_of(predictions, given["T_world_headset"])
        return outputs | {NEXT + name: value for name, value in exporter.write_state(state).items()}

    return step


def outputs_of(step: Step, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns the outputs of the graph, in order: the predictions, then the next state."""
    found = jax.eval_shape(step, *(tensor.abstract() for tensor in inputs))
    meanings = signature.MEANINGS | {NEXT + t.name: f"next {t.name}" for t in inputs if t.state}
    return tuple(
        Tensor(name=name, shape=found[name].shape, dtype=found[name].dtype.name, meaning=meaning)
        for name, meaning in meanings.items()
        if name in found
    )


def golden_of(step: Step, inputs: Sequence[Tensor], sequence: FrameSequence, tolerance_m: float) -> Golden:
    """Returns the golden sequence: what JAX computes in float32, and how far a graph may differ from it.

    A joint may differ by `tolerance_m`; anything else by ten times that, relative where it is larger than one.
    """
    jitted = jax.jit(step)
    state = signature.empty_state(inputs)
    given = {name: [] for name in sequence.inputs(0)}
    results = []
    with jax.default_matmul_precision("highest"):
        for frame in range(sequence.num_frames):
            arrays = sequence.inputs(frame)
            for name, value in arrays.items():
                given[name].append(value)
            outputs = jax.device_get(jitted(*({**arrays, **state}[tensor.name] for tensor in inputs)))
            state = {name: outputs.pop(NEXT + name) for name in state}
            results.append(outputs)
    outputs = {name: np.stack([result[name] for result in results]) for name in results[0]}
    compared = outputs | {NEXT + name: value for name, value in state.items()}
    tolerance = {name: 10 * tolerance_m * max(1.0, float(np.abs(value).max())) for name, value in compared.items()}
    tolerance |= {"joints_headset_m": tolerance_m, "joints_world_m": tolerance_m}
    return {
        "inputs": {name: np.stack(value) for name, value in given.items()},
        "outputs": outputs,
        "final": state,
        "tolerance": {name: np.asarray(value) for name, value in tolerance.items()},
        "recorded": sequence.recorded,
    }
