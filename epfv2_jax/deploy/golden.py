"""Golden sequences: inputs of a graph and what JAX computes from them, in a file beside the graph.

An uncompressed .npz without pickled objects. F is the number of frames.

    inputs/NAME      (F, ...) every input except the state, which starts at zero
    outputs/NAME     (F, ...) what JAX computed in float32
    final/NAME       (...) the state after the last frame
    tolerance/NAME   () largest difference allowed for an output, or for a state tensor next_NAME
    recorded/NAME    (F, ...) time_s, and the truth: joints_world_m, joint_valid; nothing where frames are random
    graph_sha256     () of the ONNX file that the sequence belongs to
"""

import io
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.deploy.session import NEXT, OnnxSession

NUM_FRAMES = 40
_GROUPS = ("inputs", "outputs", "final", "tolerance", "recorded")
_MAY_BE_EMPTY = ("final", "recorded")  # a model of single frames has no state, random frames have no truth

Golden = dict[str, dict[str, np.ndarray]]


def path_of(graph_path: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the golden sequence of a graph."""
    graph_path = pathlib.Path(graph_path)
    return graph_path.with_suffix(".golden.npz")


def write(path: str | os.PathLike, golden: Golden, graph_sha256: str) -> None:
    """Writes a golden sequence."""
    arrays = {f"{group}/{name}": value for group in golden for name, value in golden[group].items()}
    with open(path, "wb") as file:
        np.savez(file, graph_sha256=np.asarray(graph_sha256), **arrays)


def read(path: str | os.PathLike, graph_path: str | os.PathLike) -> Golden:
    """Returns the golden sequence at `path` of the graph at `graph_path`.

    Raises:
      ValueError: there is no such file, it cannot be read, or it belongs to another graph.
    """
    path = files.on_disk(path, "copy graph and golden sequence there")
    if not path.is_file():
        raise ValueError(f"{path}: no golden sequence; the export writes it beside the graph, copy both")
    with checks.naming(f"{path}: not a golden sequence", remedy="export again"):
        arrays = _arrays(path)
        sha256 = str(arrays.pop("graph_sha256", None))
        golden: Golden = {group: {} for group in _GROUPS}
        for key, value in arrays.items():
            group, _, name = key.partition("/")
            checks.one_of(_GROUPS, **{f"group of {key}": group})
            golden[group][name] = value
        _check(golden)
    if sha256 != files.sha256(graph_path):
        raise ValueError(f"{path}: belongs to another graph than {graph_path}; copy the two that were made together")
    return golden


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an uncompressed .npz by name, after comparing each with its checksum (CRC-32) in the file.

    No more memory is taken than the file is long, whatever shapes its headers state.
    """
    arrays = {}
    # Exception: zipfile, numpy and lookups raise their own classes.
    with checks.naming("arrays", Exception), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            checks.equal(f"{info.filename}: compression", info.compress_type, zipfile.ZIP_STORED)
            member = io.BytesIO(archive.read(info))
            checks.equal(f"{info.filename}: version of the array", np.lib.format.read_magic(member), (1, 0))
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
            checks.one_of("biuUf", **{f"{info.filename}: kind of numbers": dtype.kind})
            flat = np.frombuffer(member.read(), dtype)
            arrays[info.filename.removesuffix(".npy")] = flat.reshape(shape, order="F" if fortran_order else "C")
    return arrays


def _check(golden: Golden) -> None:
    """Raises ValueError unless all arrays are finite, of the same number of frames, and each result has a tolerance."""
    for group, arrays in golden.items():
        if group not in _MAY_BE_EMPTY:
            checks.not_empty(group, arrays, "the file was changed")
        for name, value in arrays.items():
            checks.finite(f"{group}/{name}", value, "the file was changed")
    for group in ("inputs", "outputs", "recorded"):
        for name, value in golden[group].items():
            checks.equal(f"{group}/{name}: number of frames", value.shape[:1], (num_frames(golden),))
    results = {*golden["outputs"], *(NEXT + name for name in golden["final"])}
    checks.equal("names of tolerance", sorted(golden["tolerance"]), sorted(results))
    for name, value in golden["tolerance"].items():
        checks.array(f"tolerance/{name}", value, (), np.floating)
        checks.at_least(0, **{f"tolerance/{name}": float(value)})


def num_frames(golden: Mapping[str, Mapping[str, np.ndarray]]) -> int:
    """Returns F."""
    return len(next(iter(golden["inputs"].values())))


def frame_inputs(golden: Mapping[str, Mapping[str, np.ndarray]], frame: int) -> dict[str, np.ndarray]:
    """Returns the inputs of one frame by name, without the state."""
    return {name: value[frame] for name, value in golden["inputs"].items()}


def replay(session: OnnxSession, golden: Golden) -> dict[str, float]:
    """Returns the largest difference of each output, and of the last state, from what JAX computed; in order.

    The session feeds its state back to itself, so an error in the state would grow from frame to frame. A difference
    that is not finite, or a flag that differs, counts as infinite.
    """
    session.reset()
    differences = dict.fromkeys(golden["outputs"], 0.0)
    for frame in range(num_frames(golden)):
        outputs = session.step(frame_inputs(golden, frame))
        for name, expected in golden["outputs"].items():
            differences[name] = max(differences[name], difference(outputs[name], expected[frame]))
    for name, expected in golden["final"].items():
        differences[NEXT + name] = difference(session.state[name], expected)
    session.reset()
    return differences


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest absolute difference; infinite where a flag differs or a value is not finite."""
    if found.dtype == np.bool_:
        return 0.0 if np.array_equal(found, expected) else float("inf")
    largest = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    return float(largest) if np.isfinite(largest) else float("inf")


def beyond_tolerance(golden: Golden, differences: Mapping[str, float]) -> list[str]:
    """Returns a clause for each output that differs by more than the sequence allows."""
    limits: dict[str, Any] = golden["tolerance"]
    return [
        f"{name} differs by {found:.3g}, allowed is {float(limits[name]):.3g}"
        for name, found in differences.items()
        if not found <= float(limits[name])
    ]
