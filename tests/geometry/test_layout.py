"""Layouts of a headset's cameras: every one survives JSON, every broken one is refused by the name of its field."""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from epfv2_jax.core import config
from epfv2_jax.geometry.layout import EGOBODY3M, RigLayout


@st.composite
def layouts(draw) -> RigLayout:
    """Any layout of 1 to 6 views, with or without a mirror."""
    V = draw(st.integers(1, 6))
    mirror = list(range(V))
    pairs = draw(st.permutations(range(V)))
    for a, b in zip(pairs[0::2], pairs[1::2], strict=False):
        mirror[a], mirror[b] = b, a
    return RigLayout(
        name=draw(st.text(max_size=5)),
        view_names=tuple(draw(st.lists(st.text(max_size=5), min_size=V, max_size=V, unique=True))),
        upright_turns=tuple(draw(st.lists(st.integers(-3, 3), min_size=V, max_size=V))),
        mirror=draw(st.sampled_from((None, tuple(mirror)))),
    )


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(layouts())
@hypothesis.example(EGOBODY3M)
def test_every_layout_survives_json(layout):
    stored = json.loads(json.dumps(config.to_mapping(layout)))
    assert config.from_mapping(RigLayout, stored) == layout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view_names": ()}, "layout.view_names, number: must be at least 1"),
        ({"view_names": ("a", "b", "c", "a")}, "layout.view_names, number of different names: 3 is not one of 4"),
        ({"upright_turns": (0, 0)}, "layout.upright_turns, number of entries: 2 is not one of 4"),
        ({"upright_turns": (0, 0, 4, 0)}, r"layout.upright_turns\[2\]: must be in \[-3, 3\], got 4"),
        ({"mirror": (3, 2, 1)}, "layout.mirror, number of entries: 3 is not one of 4"),
        ({"mirror": (3, 2, 1, 9)}, r"layout.mirror\[3\]: must be in \[0, 3\], got 9"),
        ({"mirror": (1, 2, 3, 0)}, "layout.mirror applied twice"),
    ],
)
def test_broken_layouts_are_refused_by_the_name_of_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EGOBODY3M, **changes)
