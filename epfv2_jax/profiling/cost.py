"""Measures the cost of a compiled program on each device (memory, FLOPs, collectives), and lists the chips' peaks.

XLA's own analysis counts the body of a loop once. This one parses the text of the optimized program and counts a body
once per iteration.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Chip:
    """The specification of an accelerator."""

    name: str
    hbm_bytes: int  # that a program may use
    peak_bf16_flops: float  # dense multiplications and additions per second
    device_kinds: tuple[str, ...]  # prefixes of jax.Device.device_kind


# Peaks: docs.cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e, and NVIDIA's data sheets of A100, H100 and H200
# (SXM, without sparsity). Memory of v5e, v5p and v6e: what the TPU compiler reports as available (15.75, 95.74 and
# 31.25 GiB); of the others the nominal size.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * 2**30, 275e12, ("TPU v4",)),
        Chip("v5e", int(15.75 * 2**30), 197e12, ("TPU v5 lite", "TPU v5e")),
        Chip("v5p", int(95.74 * 2**30), 459e12, ("TPU v5", "TPU v5p")),
        Chip("v6e", int(31.25 * 2**30), 918e12, ("TPU v6 lite", "TPU v6e")),
        Chip("A100", 80 * 10**9, 312e12, ("NVIDIA A100",)),
        Chip("H100", 80 * 10**9, 989.4e12, ("NVIDIA H100",)),
        Chip("H200", 141 * 10**9, 989.4e12, ("NVIDIA H200",)),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of a `jax.Device.device_kind`, or None if it is not in CHIPS."""
    # "TPU v5" is a prefix of "TPU v5 lite": the longest match counts.
    kinds = {kind: chip for chip in CHIPS.values() for kind in chip.device_kinds if device_kind.startswith(kind)}
    return kinds[max(kinds, key=len)] if kinds else None


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind."""

    count: int
    bytes: int  # the larger of a device's input and output


@dataclasses.dataclass(frozen=True)
class CompiledCost:
    """The cost of one call of a compiled program on one device."""

    argument_bytes: int
    output_bytes: int
    alias_bytes: int  # of the outputs that reuse donated arguments
    temp_bytes: int
    peak_bytes: int  # arguments, outputs that reuse no argument, temporaries and the program itself
    flops: float  # of matrix products and convolutions as executed, recomputation (remat) included
    collectives: dict[str, Collective]  # by kind, such as all-reduce


def compiled_cost(compiled: jax.stages.Compiled) -> CompiledCost:
    """Returns the cost of one call of `compiled` on one device.

    FLOPs: two per multiply-add in a matrix product or convolution; everything else is left out, as is usual for a
    comparison with a chip's peak. A loop counts by its trip count where that is known, else once; all branches of a
    conditional count. With rematerialisation the share of the peak is thus the hardware FLOPs utilisation (HFU); for
    that of the model (MFU) take the FLOPs of the same step with `remat` off.
    """
    memory = compiled.memory_analysis()
    flops, counts, sizes = 0.0, collections.Counter(), collections.Counter()
    for instruction, times in _executed(compiled.as_text()):
        flops += times * _flops(instruction)
        kind = instruction.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            counts[kind] += times
            sizes[kind] += times * _collective_bytes(instruction)
    parts = {
        f"{name}_bytes": int(getattr(memory, f"{name}_size_in_bytes"))
        for name in ("argument", "output", "alias", "temp")
    }
    own = parts["argument_bytes"] + parts["output_bytes"] - parts["alias_bytes"] + parts["temp_bytes"]
    return CompiledCost(
        **parts,
        peak_bytes=own + int(memory.generated_code_size_in_bytes),
        flops=flops,
        collectives={kind: Collective(counts[kind], sizes[kind]) for kind in sorted(counts)},
    )


_COLLECTIVES = frozenset(
    {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute"}
)
_LAYOUT = re.compile(r"(?<=\])\{[^{}]*\}|/\*.*?\*/")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\(([^)]*)\)?(.*)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Computations that an instruction runs: the body of a loop, a fusion, an asynchronous start or a branch.
_CALLED = re.compile(r"(?:calls|body|branch_computations|(?:true|false)_computation)=(\{[^}]*\}|%[\w.\-]+)")
_CONDITION = re.compile(r"condition=%([\w.\-]+)")
_BODY = re.compile(r"body=%([\w.\-]+)")
_INDEX = re.compile(r"index=(\d+)")
_APPLIED = re.compile(r"to_apply=(%[\w.\-]+)")
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class _Array:
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = 8 if self.dtype == "pred" else int(found[0]) if (found := _BITS.search(self.dtype)) else 0
        return math.prod(self.shape) * bits // 8


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    result: Sequence[_Array]  # leaves, where it is a tuple
    operands: Sequence[Sequence[_Array]]
    text: str  # of the operands; the value of a constant
    attributes: str

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs, once or in a loop."""
        found = _CALLED.findall(self.attributes)
        if self.opcode == "call":
            found += _APPLIED.findall(self.attributes)
        return [name for names in found for name in _NAME.findall(names)]


def _executed(text: str) -> Iterator[tuple[_Instruction, int]]:
    """Yields every instruction of an HLO module that a call runs, with the number of its executions."""
    computations, entry = _parse(text)

    def walk(name: str, times: int) -> Iterator[tuple[_Instruction, int]]:
        for instruction in computations[name]:
            yield instruction, times
            trips = _trips(instruction, computations) if instruction.opcode == "while" else 1
            for called in instruction.called:
                yield from walk(called, times * trips)

    yield from walk(entry, 1)


def _trips(loop: _Instruction, computations: Mapping[str, Sequence[_Instruction]]) -> int:
    """Returns the trip count of a loop: the compiler's, else, on TPUs, from its condition and step; 1 if unknown.

    Loops count from 0 up to a constant: those of jax.lax.scan in ones, those of a matrix product that overlaps with the
    transfer of its parts between devices often in twos.
    """
    if found := _TRIPS.search(loop.attributes):
        return int(found[1])
    condition, body = (computations[pattern.search(loop.attributes)[1]] for pattern in (_CONDITION, _BODY))
    limits = [int(i.text) for i in condition if i.opcode == "constant"]
    counters = [int(_INDEX.search(i.attributes)[1]) for i in condition if i.opcode == "get-tuple-element"]
    compared = any(i.opcode == "compare" and "direction=LT" in i.attributes for i in condition)
    if not (compared and len(limits) == len(counters) == 1):
        return 1
    by_name = {i.name: i for i in body}
    counted = by_name.get(_NAME.findall(body[-1].text)[counters[0]])
    added = [by_name[name] for name in _NAME.findall(counted.text)] if counted and counted.opcode == "add" else ()
    steps = [int(i.text) for i in added if i.opcode == "constant"]
    return math.ceil(limits[0] / steps[0]) if steps else limits[0]


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Returns the instructions of each computation of an HLO module, and the name of its entry."""
    computations, entry, results = {}, "", {}
    for line in text.splitlines():
        if not line.startswith(" "):
            if found := _COMPUTATION.match(line):
                instructions, results = computations.setdefault(found[2], []), {}
                entry = found[2] if found[1] else entry
            continue
        if not (found := _INSTRUCTION.match(_LAYOUT.sub("", line))):
            continue
        name, result, opcode, operands, attributes = found.groups()
        results[name] = _arrays(result)
        shapes = [results.get(operand, ()) for operand in _NAME.findall(operands)]
        instructions.append(_Instruction(name, opcode, results[name], shapes, operands, attributes))
    return computations, entry


def _arrays(text: str) -> list[_Array]:
    # A bound of a dynamic dimension is written <=n.
    return [
        _Array(dtype, tuple(int(n.removeprefix("<=")) for n in shape.split(",") if n))
        for dtype, shape in _ARRAY.findall(text)
    ]


def _collective_bytes(instruction: _Instruction) -> int:
    operands = sum(array.bytes for operand in instruction.operands for array in operand)
    result = sum(array.bytes for array in instruction.result)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):  # their results include the operands
        result -= operands
    return max(operands, result)


def _flops(instruction: _Instruction) -> float:
    if instruction.opcode == "dot":
        lhs = instruction.operands[0][0]
        contracted = _dims(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        return 2.0 * math.prod(instruction.result[0].shape) * math.prod(lhs.shape[i] for i in contracted)
    if instruction.opcode == "convolution":
        (lhs,), (rhs,) = instruction.operands
        return _convolution_flops(lhs.shape, rhs.shape, instruction.result[0].shape, instruction.attributes)
    if instruction.opcode == "custom-call":
        return _library_flops(instruction)
    return 0.0


def _library_flops(instruction: _Instruction) -> float:
    """Returns the FLOPs of a call to cuBLAS or cuDNN, which XLA makes on GPUs."""
    text = instruction.attributes
    if 'custom_call_target="__cublas$' in text:
        contracted = _dims(r'"lhs_contracting_dimensions":\[([\d,"]*)\]', text)
        lhs = instruction.operands[0][0].shape
        return 2.0 * math.prod(instruction.result[0].shape) * math.prod(lhs[i] for i in contracted)
    if 'custom_call_target="__cudnn$conv' in text:
        first, second, result = (array[0].shape for array in (*instruction.operands[:2], instruction.result))
        # Labels and window are those of the forward convolution, whose input or kernel may be the result.
        if "$convBackwardInput" in text:
            return _convolution_flops(result, second, first, text)
        if "$convBackwardFilter" in text:
            return _convolution_flops(first, result, second, text)
        return _convolution_flops(first, second, result, text)
    return 0.0


def _convolution_flops(lhs: Sequence[int], rhs: Sequence[int], result: Sequence[int], text: str) -> float:
    """Returns the FLOPs of a convolution without taps on padding or between dilated inputs, as in XLA.

    The TPU compiler writes matrix products as convolutions, batched ones with windows that mostly cover no input.
    """
    lhs_labels, rhs_labels, result_labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text).groups()
    window = (
        dict(re.findall(r"(\w+)=([\dx_\-]+)", found[1])) if (found := re.search(r"window=\{([^}]*)\}", text)) else {}
    )
    groups = int(found[1]) if (found := re.search(r"batch_group_count=(\d+)", text)) else 1

    def setting(name: str, i: int, default: int) -> int:
        return int(window[name].split("x")[i]) if name in window else default

    taps = 1
    for i in range(len(lhs_labels) - 2):
        size_in, size, size_out = (
            shape[labels.index(str(i))]
            for shape, labels in ((lhs, lhs_labels), (rhs, rhs_labels), (result, result_labels))
        )
        low = int(window["pad"].split("x")[i].split("_")[0]) if "pad" in window else 0
        dilation = setting("lhs_dilate", i, 1)
        place = (
            np.arange(size_out)[:, None] * setting("stride", i, 1)
            + np.arange(size)[None] * setting("rhs_dilate", i, 1)
            - low
        )
        taps *= int(np.sum((place >= 0) & (place < (size_in - 1) * dilation + 1) & (place % dilation == 0)))
    in_features, out_features = rhs[rhs_labels.index("i")], result[result_labels.index("f")]
    batch = lhs[lhs_labels.index("b")] // groups
    return 2.0 * taps * in_features * out_features * batch


def _dims(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(i) for i in re.findall(r"\d+", found[1])] if found else []
