"""The measured four-camera headset, and rigs turned upright."""

import json
import pathlib

import numpy as np

from epfv2_jax.geometry import cameras
from epfv2_jax.structs import Rig

#: Names of the views, in their order everywhere.
VIEW_NAMES: tuple[str, ...] = ("left_side", "left_front", "right_front", "right_side")
#: Quarter turns, in the sense of ``np.rot90``, that make a stored image (its +x points down) upright.
UPRIGHT_TURNS = -1
#: MIRRORED_VIEWS[v] is the view that takes the place of v under a left-right flip.
MIRRORED_VIEWS: tuple[int, ...] = (3, 2, 1, 0)


def default_rig() -> Rig:
    """Returns the four cameras of an EgoBody3M headset as numpy arrays, in the stored orientation and at native size.

    Side images are 640x480 and front images 1280x1024 (width x height). The numbers are facts measured from the public
    EgoBody3M sample clip: Fisheye62 cameras and poses fitted to its pairs of joints and pixels, translations in metres,
    rounded to eight significant digits.
    """
    data = json.loads(pathlib.Path(__file__).with_name("default_rig.json").read_text())
    views = [
        cameras.fisheye62(**{name: view[name] for name in ("focal_px", "center_px", "k", "p", "size_px")})
        for view in data["cameras"]
    ]
    T_cam_headset = np.stack([np.asarray(view["T_cam_headset"], np.float32) for view in data["cameras"]])
    return Rig(cameras=cameras.stack(views), T_cam_headset=T_cam_headset)


def upright(rig: Rig, image_hw: tuple[int, int]) -> Rig:
    """Returns the rig of the images after ``np.rot90(image, UPRIGHT_TURNS)``, resized to `image_hw` (height, width).

    The camera frames turn with the images: +x right, +y down as the wearer sees it. The resize may be anisotropic.
    """
    turned, R_new_old = cameras.rotate90(rig.cameras, UPRIGHT_TURNS)
    T_new_old = np.eye(4, dtype=np.float32)
    T_new_old[:3, :3] = R_new_old
    height, width = image_hw
    T_cam_headset = np.matmul(T_new_old, np.asarray(rig.T_cam_headset))
    return Rig(cameras=cameras.resize(turned, width, height), T_cam_headset=T_cam_headset)
