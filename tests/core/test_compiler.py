"""Compiler options: they change the time of a program, not what it computes, and a compiler may lack them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax.core import compiler

OPTIONS = ("xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT",)


def small_loss(kernel, images):
    maps = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.mean((maps @ jnp.swapaxes(maps, -1, -2)) ** 2)


def test_the_options_do_not_change_what_is_computed():
    rng = np.random.default_rng(0)
    kernel, images = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 3, 4, 8), (6, 16, 16, 4)))
    lowered = jax.jit(jax.grad(small_loss)).lower(kernel, images)
    expected = lowered.compile()(kernel, images)
    np.testing.assert_allclose(compiler.compile_step(lowered, OPTIONS)(kernel, images), expected, rtol=1e-5)


def test_an_option_that_the_compiler_lacks_is_left_out_with_a_warning(caplog):
    lowered = jax.jit(lambda x: 2 * x).lower(1.0)
    assert compiler.compile_step(lowered, ("xla_of_another_version=1",))(1.0) == 2.0
    assert "xla_of_another_version" in caplog.text


def test_a_bad_value_is_an_error():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_enable_fast_math"):
        compiler.compile_step(jax.jit(lambda x: 2 * x).lower(1.0), ("xla_cpu_enable_fast_math=perhaps",))
