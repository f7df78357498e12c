"""The measured EgoBody3M headset, and rigs turned upright."""

import pathlib

import chex
import jax
import numpy as np

from epfv2_jax.core import files
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.structs import Rig


def default_rig() -> Rig:
    """Returns the four cameras of an EgoBody3M headset as numpy arrays, in the stored orientation and at native size.

    Side images are 640x480 and front images 1280x1024 (width x height). The numbers are facts measured from the public
    EgoBody3M sample clip: Fisheye62 cameras and poses fitted to its pairs of joints and pixels, translations in metres,
    rounded to eight significant digits.
    """
    data = files.read_json(pathlib.Path(__file__).with_name("default_rig.json"), "install epfv2_jax again")
    views = [
        cameras.fisheye62(**{name: view[name] for name in ("focal_px", "center_px", "k", "p", "size_px")})
        for view in data["cameras"]
    ]
    T_cam_headset = np.stack([np.asarray(view["T_cam_headset"], np.float32) for view in data["cameras"]])
    return Rig(cameras=cameras.stack(views), T_cam_headset=T_cam_headset)


def upright(rig: Rig, layout: RigLayout, image_hw: tuple[int, int]) -> Rig:
    """Returns the rig (leading axis V) of the upright images, resized to `image_hw` (height, width).

    View v is that of ``np.rot90(image, layout.upright_turns[v])``. The camera frames turn with the images: +x right, +y
    down as the wearer sees it. The two factors of the resize may differ.
    """
    T_old = np.asarray(rig.T_cam_headset)
    chex.assert_shape(T_old, (layout.num_views, 4, 4))
    height, width = image_hw
    T_new_old = np.tile(np.eye(4, dtype=np.float32), (layout.num_views, 1, 1))
    views = []
    for v, turns in enumerate(layout.upright_turns):
        turned, T_new_old[v, :3, :3] = cameras.rotate90(jax.tree.map(lambda x, v=v: x[v], rig.cameras), turns)
        views.append(cameras.resize(turned, width, height))
    return Rig(cameras=cameras.stack(views), T_cam_headset=np.matmul(T_new_old, T_old))
