"""The cameras that see synthetic people: those of EgoBody3M, or of any headset."""

import dataclasses
import functools
import hashlib
import os

import jax
import numpy as np

from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.readers import recording
from epfv2_jax.data.synthetic.config import check_image_width
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.layout import EGOBODY3M, RigLayout
from epfv2_jax.structs import Rig


@dataclasses.dataclass(frozen=True, eq=False)
class HeadsetRig:
    """The cameras of a headset, for images as they are stored; numpy, leading axis V."""

    rig: Rig
    layout: RigLayout
    description: recording.Headset | None  # None: EgoBody3M's
    refit_px: float  # the largest error of a lens that was refitted, see `formats.CalibratedCamera`

    def scaled(self, image_width: int) -> Rig:
        """Returns the cameras of images of this width; their shape is kept to a pixel.

        Raises:
          ValueError: the headset is EgoBody3M's, and the width does not give whole heights.
        """
        if self.description is None:
            check_image_width(image_width)
        views = []
        for v in range(self.layout.num_views):
            camera = jax.tree.map(lambda x, v=v: x[v], self.rig.cameras)
            width, height = camera.size_px
            views.append(cameras.resize(camera, image_width, max(1, round(image_width * float(height) / float(width)))))
        return self.rig.replace(cameras=cameras.stack(views))

    def upright(self, image_size_hw: tuple[int, int]) -> Rig:
        """Returns the cameras of upright images of this size."""
        return jax.tree.map(np.asarray, rig_lib.upright(self.rig, self.layout, image_size_hw))

    @property
    def sha256(self) -> str:
        """Of all that is known of it, in hexadecimal digits."""
        digest = hashlib.sha256(repr((self.layout, self.rig.cameras.model)).encode())
        for leaf in jax.tree.leaves(self.rig):
            digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
        return digest.hexdigest()


@functools.lru_cache(maxsize=8)
def open_headset(path: str | os.PathLike | None) -> HeadsetRig:
    """Returns the headset of a path, see `recording.open_rig`; None: EgoBody3M's. Cached.

    Raises:
      ValueError: as `recording.open_rig`.
    """
    if path is None:
        return HeadsetRig(rig_lib.default_rig(), EGOBODY3M, None, 0.0)
    description, calibrated = recording.open_rig(path)
    rig, layout = recording.rig_of(description, calibrated)
    return HeadsetRig(rig, layout, description, max(camera.refit_px for camera in calibrated))
