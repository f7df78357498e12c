"""From a model to an ONNX graph of one frame's step, with its state as inputs and outputs, compared with JAX.

The graph is traced by jax2onnx (`trace`), rewritten (`rules`), converted to a precision (`precision`), described by its
metadata, and published only if it passes every gate (`publish`).

jax2onnx replaces functions of jax.numpy for the rest of the process, and its first call takes many seconds: call
`export` in a process of its own, as ``python -m epfv2_jax.export`` does.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import onnx

from epfv2_jax.checkpoints import About, Trained
from epfv2_jax.core import checks, files
from epfv2_jax.data.records import Records
from epfv2_jax.deploy import golden as golden_lib
from epfv2_jax.deploy import metadata, publish, rules, sequences, signature, trace
from epfv2_jax.deploy import step as step_lib
from epfv2_jax.deploy.epfv2 import EPFv2Exporter
from epfv2_jax.deploy.graph import Graph
from epfv2_jax.deploy.leaves import LeafExporter
from epfv2_jax.deploy.precision import quantize, to_half
from epfv2_jax.deploy.publish import Exported
from epfv2_jax.deploy.sequences import FrameSequence
from epfv2_jax.deploy.signature import Tensor
from epfv2_jax.deploy.step import Exporter, Step
from epfv2_jax.models.base import PoseModel

#: By the `kind` of the model's configuration, where a graph stores the state in another form than the model. All other
#: models are exported by `LeafExporter`.
EXPORTERS: dict[str, Callable[[Any], Exporter]] = {
    "epfv2": EPFv2Exporter,
}
#: Largest difference of a joint from JAX, metres, over the golden sequence, by precision of the encoder. That of int8
#: only guards against a broken graph (our choice): what it costs is measured in MPJPE.
TOLERANCE_M: dict[str, float] = {"fp32": 2e-5, "fp16": 1e-3, "int8": 0.25}
_RECORDED_FRAMES = 25  # of one recorded sequence, at most


def exporter_of(model: PoseModel) -> Exporter:
    """Returns the exporter of a model.

    Raises:
      ValueError: the model's state holds arrays of a type that a graph does not take.
    """
    return EXPORTERS.get(model.config.kind, LeafExporter)(model)


def export(
    trained: Trained,
    path: str | os.PathLike,
    *,
    batch: int = 1,
    precision: str = "fp32",
    records: Records | None = None,
    recorded_frames: int = 200,
    golden_frames: int = golden_lib.NUM_FRAMES,
) -> Exported:
    """Writes the graph of one frame's step at `path`, with its golden sequence beside it, and returns its measures.

    Args:
      trained: the model, for the image size and the lens model of the data that it was trained on; its streams compute
        in float32 here, whatever its configuration says.
      path: of the ONNX file; nothing is written there unless the graph passes every gate.
      batch: streams that one call advances, B.
      precision: of the encoder: "fp32", "fp16", or "int8" with quantisation in the graph (QDQ). Everything after the
        encoder stays float32, inputs and outputs too.
      records: recorded frames, for the golden sequence and for quantisation.
      recorded_frames: most frames to calibrate the quantisation and measure MPJPE on.
      golden_frames: most frames of the golden sequence, which ends with the first of the records.

    Raises:
      ValueError: the model's state or the records do not fit, int8 without records, or the graph fails a gate.
    """
    path = files.on_disk(path, "export there, then copy both files")
    checks.at_least(1, batch=batch, recorded_frames=recorded_frames, golden_frames=golden_frames)
    checks.one_of(TOLERANCE_M, precision=precision)
    model, about = trained.model, trained.about
    _check_records(records, model, about, precision)
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such directory to write {path.name} to")
    exporter = exporter_of(model)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained.variables)
    inputs = step_lib.inputs_of(exporter, about.image_size_hw, batch)
    step = step_lib.frame_step(exporter, variables, inputs, about.camera_model)

    # All that JAX computes comes before jax2onnx is imported and replaces parts of JAX.
    if records is None:
        views = model.layout.num_views
        sequence = sequences.random_sequence(
            golden_frames, views, about.image_size_hw, batch, camera_model=about.camera_model
        )
    else:
        sequence = next(sequences.recorded_sequences(records, batch, golden_frames))
    golden = step_lib.golden_of(step, inputs, sequences.with_losses(sequence), TOLERANCE_M[precision])
    outputs = step_lib.outputs_of(step, inputs)
    described = metadata.describe(exporter, variables, about, inputs, outputs, precision, trained.card)

    def recorded() -> Iterator[FrameSequence]:
        return sequences.recorded_sequences(records, batch, _RECORDED_FRAMES, total=recorded_frames)

    full, converted = _graphs(step, inputs, outputs, precision, recorded)
    for proto in (full, converted):
        metadata.write(proto, described)
    if records is None or precision == "fp32":
        return publish.publish(path, converted, golden)
    return publish.publish(path, converted, golden, full, recorded)


def _check_records(records: Records | None, model: PoseModel, about: About, precision: str) -> None:
    if records is None and precision == "int8":
        raise ValueError("precision int8 is calibrated on recorded frames: give a directory of records")
    num_views, size = model.layout.num_views, about.image_size_hw
    if records is None:
        return
    if (records.image_size_hw, records.num_views) != (size, num_views):
        raise ValueError(
            f"{records.directory}: {records.num_views} views of {records.image_size_hw} pixels, the model takes "
            f"{num_views} of {size}; convert the data for this model"
        )
    checks.equal(f"{records.directory}: lens model", records.camera_model, about.camera_model, "as in training")


def _graphs(
    step: Step,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    precision: str,
    recorded: Callable[[], Iterable[FrameSequence]],
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Returns the graph of a step in float32, and with its encoder in `precision`."""

    def in_order(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        results = step(*arrays)
        return tuple(results[tensor.name] for tensor in outputs)

    graph = Graph(trace.to_onnx(in_order, inputs, [tensor.name for tensor in outputs]))
    rules.simplify(graph)
    full = graph.model()
    if precision == "int8":
        return full, quantize(graph, signature.empty_state(inputs), recorded())
    return full, to_half(graph) if precision == "fp16" else full
