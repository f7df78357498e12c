"""The protocol of body representations."""

from typing import Protocol

import jax

from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import BodyParameters


class Body(Protocol):
    """A body representation: computes joints from the outputs of a pose head. Built from a `Skeleton`."""

    skeleton: Skeleton

    @property
    def num_parameters(self) -> int:
        """Number of outputs of a pose head."""

    def joints(self, parameters: jax.Array, R_headset_level: jax.Array) -> tuple[jax.Array, BodyParameters | None]:
        """Returns joints (..., J, 3) in the headset frame, metres, and the body behind them.

        Args:
          parameters: (..., num_parameters), in the level frame.
          R_headset_level: (..., 3, 3).
        """
