"""Layouts of a headset's cameras: names, upright turns and mirror pairs, as a value that comes with the data."""

import dataclasses

from epfv2_jax.core import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigLayout:
    """The V views of a headset, in the order of every array's axis V."""

    name: str
    view_names: tuple[str, ...]
    # Quarter turns, in the sense of `np.rot90`, that make a stored image of each view upright.
    upright_turns: tuple[int, ...]
    mirror: tuple[int, ...] | None = None  # the view that replaces v under a left-right flip; None: no flip

    def __post_init__(self):
        V = self.num_views
        checks.at_least(1, **{"layout.view_names, number": V})
        checks.one_of((V,), **{"layout.view_names, number of different names": len(set(self.view_names))})
        checks.one_of((V,), **{"layout.upright_turns, number of entries": len(self.upright_turns)})
        for v, turns in enumerate(self.upright_turns):
            checks.within(-3, 3, **{f"layout.upright_turns[{v}]": turns})
        if self.mirror is not None:
            checks.one_of((V,), **{"layout.mirror, number of entries": len(self.mirror)})
            checks.within(0, V - 1, **{f"layout.mirror[{v}]": m for v, m in enumerate(self.mirror)})
            twice = tuple(self.mirror[m] for m in self.mirror)
            checks.one_of((tuple(range(V)),), **{"layout.mirror applied twice": twice})

    @property
    def num_views(self) -> int:
        """V."""
        return len(self.view_names)


#: The four cameras of an EgoBody3M headset: the +x axis of a stored image points down.
EGOBODY3M = RigLayout(
    name="egobody3m",
    view_names=("left_side", "left_front", "right_front", "right_side"),
    upright_turns=(-1, -1, -1, -1),
    mirror=(3, 2, 1, 0),
)
