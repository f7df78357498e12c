"""Publishes a graph with its golden sequence beside it, if it passes every gate, and measures what it costs."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import onnx

from epfv2_jax.core import files
from epfv2_jax.deploy import gates
from epfv2_jax.deploy import golden as golden_lib
from epfv2_jax.deploy.golden import Golden
from epfv2_jax.deploy.sequences import FrameSequence
from epfv2_jax.deploy.session import OnnxSession


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A published graph."""

    path: pathlib.Path
    num_nodes: int
    num_bytes: int
    differences: dict[str, float]  # largest, of each output from JAX over the golden sequence, in the output's unit
    mpjpe_cm: tuple[float, float] | None  # on recorded frames, of float32 and of the published graph


def publish(
    path: pathlib.Path,
    model: onnx.ModelProto,
    golden: Golden,
    full: onnx.ModelProto | None = None,
    recorded: Callable[[], Iterable[FrameSequence]] | None = None,
) -> Exported:
    """Writes `model` and its golden sequence; both appear, or neither.

    Args:
      path: of the ONNX file.
      model: the graph.
      golden: what JAX computes.
      full: the same graph in float32, where `model` is not.
      recorded: returns recorded frames to measure MPJPE of both graphs on; None: it is not measured.

    Raises:
      ValueError: the graph is not fit for deployment, or differs from JAX by more than the golden sequence allows.
    """
    gates.check(model)
    mpjpe_cm = None
    with files.publishing(path) as own, files.publishing(golden_lib.path_of(path)) as own_golden:
        onnx.save(model, own)
        session = OnnxSession(own)
        differences = golden_lib.replay(session, golden)
        beyond = golden_lib.beyond_tolerance(golden, differences)
        if beyond:
            raise ValueError(f"the graph does not compute what JAX computes: {'; '.join(beyond)}; it is not published")
        if full is not None and recorded is not None:
            own_full = own.with_name("full.onnx")
            onnx.save(full, own_full)
            mpjpe_cm = (mpjpe(OnnxSession(own_full), recorded()), mpjpe(session, recorded()))
        golden_lib.write(own_golden, golden, files.sha256(own))
    return Exported(
        path=path,
        num_nodes=len(model.graph.node),
        num_bytes=path.stat().st_size,
        differences=differences,
        mpjpe_cm=mpjpe_cm,
    )


def mpjpe(session: OnnxSession, sequences: Iterable[FrameSequence]) -> float:
    """Returns the mean distance of the joints from the truth over recorded sequences, each from a fresh state, cm."""
    total, count = 0.0, 0
    for sequence in sequences:
        session.reset()
        for frame in range(sequence.num_frames):
            found = session.step(sequence.inputs(frame))["joints_world_m"]
            valid = sequence.joint_valid[frame]
            total += np.linalg.norm(found - sequence.joints_world_m[frame], axis=-1)[valid].sum(dtype=np.float64)
            count += valid.sum()
    session.reset()
    return 100 * total / max(count, 1)
