"""Writes sequences in the format of UnrealEgo: labels of people in random poses, and pictures of 64 x 64 pixels."""

import json
import pathlib

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from epfv2_jax.data.readers.unrealego import UNREALEGO
from epfv2_jax.geometry import kinematics

SIZE = 64
PREFIX = "./UnrealEgoData/"
MOTION = "Lab_Scene/Day/rp_carla_rigged_001_ue4/SKM_MenReadingGlasses_Shape_01/023/dancing_ue4"
# In headset axes (x left, y up, z forward): the left camera, the right one.
CAMERAS_HEADSET_M = np.array([[0.06, 0.0, 0.0], [-0.06, 0.0, 0.0]])
CENTER_PX = np.array([31.2, 31.9])
# From the angle below the image plane to the distance from the centre: here 24 a - 1.5 a^3 of the angle a to the axis.
CURVE = np.polynomial.Polynomial([0, 24.0, 0, -1.5])(np.polynomial.Polynomial([np.pi / 2, 1.0])).coef
GROUND_CM = 37.0


def project(points_cam: np.ndarray) -> np.ndarray:
    """OCam's projection, with x right, y down, z forward."""
    distance = np.hypot(points_cam[..., 0], points_cam[..., 1])
    radius_px = np.polynomial.polynomial.polyval(np.arctan(-points_cam[..., 2] / distance), CURVE)
    return points_cam[..., :2] / distance[..., None] * radius_px[..., None] + CENTER_PX


def truth(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """T_world_headset and the joints in the world, metres, y up, of a frame."""
    rng = np.random.default_rng(frame)
    rotations = Rotation.from_rotvec(rng.normal(0, 0.3, (UNREALEGO.num_joints, 3))).as_matrix()
    root_m, offsets_m = (np.asarray(x) for x in (UNREALEGO.rest_root_headset_m, UNREALEGO.rest_offsets_m))
    joints_m, _ = kinematics.forward_kinematics(UNREALEGO.parents, np.eye(3), root_m, rotations, offsets_m)
    joints_headset_m = np.asarray(joints_m) + UNREALEGO.rest_joints_headset_m()[0] - np.asarray(joints_m)[0]
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("YX", [rng.uniform(-3, 3), rng.uniform(-0.3, 0.3)]).as_matrix()
    T[:3, 3] = rng.uniform((-50, 1.5, -50), (50, 1.7, 50))
    return T, joints_headset_m @ T[:3, :3].T + T[:3, 3]


def labels(frame: int) -> dict:
    """The content of a frame's JSON. The glasses look straight down; right in their images is the wearer's left."""
    T, joints_world_m = truth(frame)
    joints_headset_m = (joints_world_m - T[:3, 3]) @ T[:3, :3]
    joints = {}
    for name, world_m, headset_m in zip(UNREALEGO.joint_names, joints_world_m, joints_headset_m, strict=True):
        left, up, ahead = world_m * 100
        joint = {"trans": [left, ahead, up + GROUND_CM], "rot": [0.0, 0.0, 0.0]}
        for side, camera_m in zip(("left", "right"), CAMERAS_HEADSET_M, strict=True):
            left, up, ahead = (headset_m - camera_m) * 100
            joint[f"camera_{side}_pts3d"] = [left, ahead, -up]
            joint[f"camera_{side}_pts2d"] = project(np.array([left, ahead, -up])).tolist()
        joints[name] = joint
    camera = {"trans": [0.0, 0.0, 0.0], "rot": [0.0, 0.0, 0.0]}
    return {"ground_z_value": GROUND_CM, "camera_left": camera, "camera_right": camera, "joints": joints}


def picture() -> Image.Image:
    """Brighter from top to bottom, where the ground ahead of the wearer is."""
    return Image.fromarray(np.tile(np.arange(SIZE, dtype=np.uint8)[:, None, None] * 3 + 20, (1, SIZE, 3)))


def write(source: pathlib.Path, motion: str = MOTION, frames=range(6), split: str = "train", **changed: dict) -> None:
    """Adds a sequence; `changed` replaces the JSON content of frames, by `frame_N`."""
    source.mkdir(parents=True, exist_ok=True)
    with (source / f"{split}.txt").open("a") as file:
        file.write(f"{PREFIX}{motion}\n")
    (source / motion / "json").mkdir(parents=True)
    for side in ("left", "right"):
        (source / motion / "fisheye_final_image" / f"camera_{side}").mkdir(parents=True)
    for frame in frames:
        content = changed.get(f"frame_{frame}", labels(frame))
        (source / motion / "json" / f"frame_{frame}.json").write_text(json.dumps(content))
        for side in ("left", "right"):
            picture().save(source / motion / "fisheye_final_image" / f"camera_{side}" / f"final_{frame}.png")
    calibration = {
        "name": "test",
        "size": [SIZE, SIZE],
        "imageCircleRadius": 28,
        "image_center": CENTER_PX.tolist(),
        "polynomialW2C": CURVE.tolist(),
        "affine": [1.0, 0.0, 0.0],
    }
    (source / "fisheye_calibration_UEP.json").write_text(json.dumps(calibration))
