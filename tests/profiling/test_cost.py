"""FLOPs against hand-computed ones, loops against the same unrolled, collectives and memory of known programs."""

import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from epfv2_jax.profiling import cost
from epfv2_jax.profiling.cost import Collective, compiled_cost


def compiled(fn, *shapes, **settings):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(fn, **settings).lower(*arrays).compile()


def flops(fn, *shapes) -> float:
    return compiled_cost(compiled(fn, *shapes)).flops


def scan(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def loop(x, weights):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


def test_matrix_products():
    assert flops(jnp.matmul, (8, 16), (16, 32)) == 2 * 8 * 16 * 32
    batched = flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (5, 8, 16), (5, 32, 16))
    assert batched == 5 * 2 * 8 * 16 * 32
    assert flops(jnp.tanh, (8, 16)) == 0


def test_loops_count_by_their_trips():
    assert flops(scan, (8, 16), (10, 16, 16)) == 10 * 2 * 8 * 16 * 16
    assert flops(loop, (8, 16), (10, 16, 16)) == 10 * 2 * 8 * 16 * 16

    def nested(x, weights):
        return jax.lax.scan(lambda x, _: (scan(x, weights), None), x, length=3)[0]

    assert flops(nested, (8, 16), (10, 16, 16)) == 30 * 2 * 8 * 16 * 16


def test_gradient_of_a_loop_and_its_recomputation():
    shapes = ((8, 16), (10, 16, 16))

    def gradient(fn):
        return jax.value_and_grad(lambda x, weights: fn(x, weights).sum(), (0, 1))

    once = 10 * 2 * 8 * 16 * 16
    assert flops(gradient(scan), *shapes) == flops(gradient(loop), *shapes) == 3 * once
    # Recomputation is executed, and counted: the forward products a second time.
    again = flops(gradient(jax.checkpoint(scan, prevent_cse=True)), *shapes)
    assert again == 4 * once


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution(stride, groups):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    out = (16 - 3) // stride + 1
    assert flops(convolve, (5, 16, 16, 4), (3, 3, 4 // groups, 8)) == 2 * 5 * out**2 * 8 * 9 * 4 / groups


def test_taps_on_padding_are_left_out():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    assert flops(convolve, (1, 10, 1), (3, 1, 1)) == 2 * (3 * 10 - 2)


def test_as_xla_counts_where_there_is_no_loop():
    def fn(x, kernel):
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.einsum("bhwc,bhwd->bcd", y, y).sum()

    program = compiled(jax.grad(fn, (0, 1)), (2, 9, 16, 8), (3, 3, 8, 64))
    # XLA's count also holds the additions of the reductions and the like.
    assert compiled_cost(program).flops == pytest.approx(program.cost_analysis()["flops"], rel=0.02)


def test_collectives_by_kind_and_trips():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x",), ()))

    def gradient_descent(w, x):
        def step(w, _):
            return w - jax.grad(lambda w: jnp.tanh(x @ w).sum())(w), None

        return jax.lax.scan(step, w, length=5)[0]

    program = compiled(gradient_descent, (16, 4), (64, 16), in_shardings=(whole, split), out_shardings=whole)
    assert compiled_cost(program).collectives == {"all-reduce": Collective(count=5, bytes=5 * 16 * 4 * 4)}
    gather = compiled(lambda x: 2 * x, (64, 16), in_shardings=split, out_shardings=whole)
    assert compiled_cost(gather).collectives == {"all-gather": Collective(count=1, bytes=64 * 16 * 4)}
    assert compiled_cost(compiled(scan, (8, 16), (10, 16, 16))).collectives == {}


def test_memory_with_donation():
    def fn(x):
        return jnp.tanh(x)

    kept, donated = (compiled_cost(compiled(fn, (1024,), donate_argnums=argnums)) for argnums in ((), (0,)))
    assert (kept.argument_bytes, kept.output_bytes, kept.alias_bytes) == (4096, 4096, 0)
    assert donated.alias_bytes == 4096
    assert kept.peak_bytes - donated.peak_bytes == 4096


def cost_of_text(*instructions: str, computations: str = "") -> cost.CompiledCost:
    """The cost of a program as another backend writes it, of which only the text is at hand."""
    text = "\n  ".join((f"{computations}\nENTRY %main (a: f32[1]) -> f32[1] {{", *instructions)) + "\n}\n"
    sizes = ("argument", "output", "alias", "temp", "generated_code")
    memory = types.SimpleNamespace(**{f"{name}_size_in_bytes": 0 for name in sizes})
    return compiled_cost(types.SimpleNamespace(as_text=lambda: text, memory_analysis=lambda: memory))


@pytest.mark.parametrize(("step", "trips"), [(1, 12), (2, 6), (5, 3)])
def test_loops_of_tpu_programs_count_by_their_condition_and_step(step, trips):
    computations = """
%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %x = f32[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = f32[16,16]{1,0:T(8,128)} constant({...})
  %y = f32[8,16]{1,0:T(8,128)} convolution(%x, %w), dim_labels=bf_io->bf
  %r = f32[8,16]{1,0:T(8,128)} all-reduce(%y), replica_groups=mesh['x'=4] {'x'}, to_apply=%sum
  %i.1 = s32[]{:T(128)} get-tuple-element(%p), index=0
  %step = s32[]{:T(128)} constant(STEP)
  %i.2 = s32[]{:T(128)} add(%i.1, %step)
  ROOT %t = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%i.2, %r)
}

%condition (p.1: (s32[], f32[8,16])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}
"""
    loop = "ROOT %w.1 = (s32[], f32[8,16]{1,0:T(8,128)}) while(%a), condition=%condition, body=%body"
    found = cost_of_text(loop, computations=computations.replace("STEP", str(step)))
    assert found.flops == trips * 2 * 8 * 16 * 16
    assert found.collectives == {"all-reduce": Collective(count=trips, bytes=trips * 8 * 16 * 4)}


def test_library_calls_of_gpu_programs():
    gemm = cost_of_text(
        "%a = bf16[5,8,16]{2,1,0} parameter(0)",
        "%b = bf16[5,16,32]{2,1,0} parameter(1)",
        '%c = (bf16[5,8,32]{2,1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],'
        '"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}',
    )
    assert gemm.flops == 5 * 2 * 8 * 16 * 32
    shapes = {"x": "f16[5,4,16,16]{3,2,1,0}", "kernel": "f16[8,4,3,3]{3,2,1,0}", "y": "f16[5,8,14,14]{3,2,1,0}"}
    for target, first, second, result in (
        ("Forward", "x", "kernel", "y"),
        ("BackwardInput", "y", "kernel", "x"),
        ("BackwardFilter", "x", "y", "kernel"),
    ):
        convolution = cost_of_text(
            f"%a = {shapes[first]} parameter(0)",
            f"%b = {shapes[second]} parameter(1)",
            f"%c = ({shapes[result]}, u8[0]{{0}}) custom-call(%a, %b), window={{size=3x3}}, "
            f'dim_labels=bf01_oi01->bf01, custom_call_target="__cudnn$conv{target}"',
        )
        assert convolution.flops == 2 * 5 * 14 * 14 * 8 * 9 * 4


def test_bytes_of_collectives_that_start_and_end_apart():
    found = cost_of_text(
        "%a = bf16[4,16]{1,0} parameter(0)",
        "%g = (bf16[4,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(%a), dimensions={0}",
        "%h = bf16[32,16]{1,0} all-gather-done(%g)",
        "%s = bf16[4,16]{1,0} reduce-scatter(%h), dimensions={0}, to_apply=%sum",
    )
    whole = 32 * 16 * 2
    assert found.collectives == {"all-gather": Collective(1, whole), "reduce-scatter": Collective(1, whole)}


def test_chips_are_known_by_their_kind():
    assert cost.chip_of("TPU v5 lite").name == "v5e"
    assert cost.chip_of("TPU v5").name == cost.chip_of("TPU v5p").name == "v5p"
    assert cost.chip_of("TPU v6 lite").name == "v6e"
    assert cost.chip_of("NVIDIA H100 80GB HBM3").name == "H100"
    assert cost.chip_of("cpu") is None
    assert all(chip.name == name for name, chip in cost.CHIPS.items())
