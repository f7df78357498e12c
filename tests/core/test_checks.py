"""Checks: what passes, and that a refusal names the field, the value and what is allowed."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epfv2_jax.core import checks

NUMBERS = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(low=NUMBERS, value=NUMBERS)
def test_bounds_are_what_they_are_called(low, value):
    for check, holds in ((checks.at_least, value >= low), (checks.above, value > low)):
        if holds:
            check(low, steps=value)
        else:
            with pytest.raises(ValueError, match=r"^steps: must be "):
                check(low, steps=value)


@settings(deadline=None)
@given(value=NUMBERS, bounds=st.tuples(NUMBERS, NUMBERS).map(sorted))
def test_intervals_are_what_they_are_called(value, bounds):
    low, high = bounds
    for check, holds in (
        (lambda **v: checks.within(low, high, **v), low <= value <= high),
        (checks.below_one, 0 <= value < 1),
    ):
        if holds:
            check(share=value)
        else:
            with pytest.raises(ValueError, match=r"^share: must be in \["):
                check(share=value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_check_lets_through_what_is_not_finite(value):
    for check in (
        lambda x: checks.at_least(0, x=x),
        lambda x: checks.above(0, x=x),
        lambda x: checks.within(0, 1, x=x),
        lambda x: checks.below_one(x=x),
    ):
        with pytest.raises(ValueError, match=f"x: must be .*got {value}"):
            check(value)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.at_least(1, steps=3, parts=0), "parts: must be at least 1, got 0"),
        (lambda: checks.above(0, rate=0.0), "rate: must be above 0, got 0.0"),
        (lambda: checks.within(0, 1, flip=1.5), "flip: must be in [0, 1], got 1.5"),
        (lambda: checks.below_one(ema_decay=1.0), "ema_decay: must be in [0, 1), got 1.0"),
        (lambda: checks.one_of(("a", "b"), kind="c"), "kind: 'c' is not one of 'a', 'b'"),
        (
            lambda: checks.one_of(("resnet18", "vit"), encoder="resnet19"),
            "encoder: 'resnet19' is not one of 'resnet18', 'vit'; did you mean resnet18?",
        ),
        (
            lambda: checks.equal("a.json: version", 1, 2, "make it again"),
            "a.json: version: expected 2, got 1; make it again",
        ),
        (lambda: checks.equal("encoder", "vit", "resnet18"), "encoder: expected 'resnet18', got 'vit'"),
        (lambda: checks.multiple_of(4, "width", 6, "use 8"), "width: must be a multiple of 4, got 6; use 8"),
        (lambda: checks.not_empty("records of a", (), "make some"), "records of a: there are none; make some"),
        (lambda: checks.instance("a", True, int, "an integer"), "a: expected an integer, got True"),
        (lambda: checks.instance("a", [1], dict, "a mapping"), "a: expected a mapping, got [1]"),
        (
            lambda: checks.extra_installed("no_such_module", "viz", "a picture"),
            "a picture needs the extra: pip install 'epfv2_jax[viz]'",
        ),
    ],
)
def test_the_field_the_value_and_what_is_allowed_are_named(check, message):
    with pytest.raises(ValueError) as found:
        check()
    assert str(found.value) == message


def test_one_of_takes_a_table_or_a_generator_and_any_type():
    checks.one_of({"a": 1, "b": 2}, kind="b")
    checks.one_of((n for n in (3, 4)), first=3, second=4)  # more than one value, although a generator ends
    with pytest.raises(ValueError, match="rows: 5 is not one of 3, 4"):
        checks.one_of((3, 4), rows=5)


@pytest.mark.parametrize("make", [np.zeros, jnp.zeros])
def test_arrays_of_the_shape_and_kind_pass(make):
    checks.array("images", make((2, 3), np.uint8), (2, 3), np.uint8)
    checks.array("images", make((2, 3), np.uint8), (None, 3), "uint8")
    checks.array("pose", make((4, 4), np.float32), (4, 4), np.floating)
    checks.array("step", make((), np.int32), (), np.integer)
    checks.array("mask", make((0,), bool), (None,), np.bool_)


@pytest.mark.parametrize(
    ("value", "shape", "kind", "message"),
    [
        (np.zeros((2, 3), np.uint8), (3, None), np.uint8, "a: expected (3, any) uint8, got (2, 3) uint8; pixels"),
        (np.zeros(3, np.int32), (3,), np.floating, "a: expected (3,) floating, got (3,) int32; pixels"),
        (np.zeros(3, np.int32), (3,), np.bool_, "a: expected (3,) bool, got (3,) int32; pixels"),
        (np.zeros((3, 1)), (3,), np.floating, "a: expected (3,) floating, got (3, 1) float64; pixels"),
        ([0.0], (1,), np.floating, "a: expected an array (1,) floating, got list; pixels"),
    ],
)
def test_other_arrays_are_told_what_was_expected(value, shape, kind, message):
    with pytest.raises(ValueError) as found:
        checks.array("a", value, shape, kind, "pixels")
    assert str(found.value) == message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite_names_the_remedy(bad):
    checks.finite("rig", np.ones(3), "calibrate again")
    checks.finite("rig", np.ones(3, np.int32), "calibrate again")
    with pytest.raises(ValueError, match="rig: holds values that are not finite; calibrate again"):
        checks.finite("rig", np.array([1.0, bad]), "calibrate again")


def test_what_is_as_expected_passes():
    checks.equal("size", (1, 2), (1, 2))
    checks.multiple_of(4, "width", 0)
    checks.multiple_of(4, "width", 8)
    checks.not_empty("frames", [0], "make some")
    checks.instance("flag", True, bool, "true or false")
    checks.extra_installed("numpy", "viz", "a picture")


def test_errors_of_a_block_name_where_they_arose():
    damaged = checks.naming("a.zip: damaged", (OSError, KeyError), "get it again")
    with pytest.raises(ValueError, match=r"^a\.zip: damaged: bad; get it again$") as found, damaged:
        raise OSError("bad")
    assert isinstance(found.value.__cause__, OSError)
    with pytest.raises(OSError, match=r"^bad$"), checks.naming("a.zip"):  # only errors that are asked for
        raise OSError("bad")


def test_nearest_names_what_was_meant_or_nothing():
    assert checks.nearest("learnin_rate", ["learning_rate", "steps"]) == "; did you mean learning_rate?"
    assert checks.nearest("zzz", ["learning_rate", "steps"]) == checks.nearest(3, [3, 4]) == ""
