"""Calibration files of two made-up headsets, each with its headset.yaml: six cameras of Kalibr, two of Basalt."""

import json
import pathlib

import calibration_files
import numpy as np
import yaml
from scipy.spatial.transform import Rotation

SIZE = (640, 480)
# The IMU's axes: x ahead, y left, z up; it lies 2 cm above the point between the eyes.
T_HEADSET_BODY = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0.02], [1, 0, 0, 0], [0, 0, 0, 1]])
# Name -> position in headset axes (metres), degrees to the left and down, turns that make the image upright, mirror.
SIX = {
    "left_side": ((0.07, 0.0, 0.0), 70, 45, 0, "right_side"),
    "left_front": ((0.03, 0.02, 0.05), 12, 35, -1, "right_front"),
    "left_down": ((0.04, -0.03, 0.04), 20, 75, 0, "right_down"),
    "right_side": ((-0.07, 0.0, 0.0), -70, 45, 0, "left_side"),
    "right_front": ((-0.03, 0.02, 0.05), -12, 35, 1, "left_front"),
    "right_down": ((-0.04, -0.03, 0.04), -20, 75, 0, "left_down"),
}
TWO = {
    "left": ((0.04, -0.01, 0.05), 20, 55, 0, "right"),
    "right": ((-0.04, -0.01, 0.05), -20, 55, 0, "left"),
}


def T_body_cam(position_m, left_deg: float, down_deg: float, turns: int) -> np.ndarray:
    """Returns camera to IMU (4, 4) of the stored image."""
    left, down = np.deg2rad([left_deg, down_deg])
    ahead = np.array([np.sin(left) * np.cos(down), -np.sin(down), np.cos(left) * np.cos(down)])
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    T_headset_cam = np.eye(4)
    T_headset_cam[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=-1)
    T_headset_cam[:3, :3] = T_headset_cam[:3, :3] @ Rotation.from_euler("z", -90 * turns, degrees=True).as_matrix()
    T_headset_cam[:3, 3] = position_m
    return np.linalg.inv(T_HEADSET_BODY) @ T_headset_cam


def write(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes both; returns the calibration files by name, `six` and `two`."""
    chain = {
        f"cam{i}": {
            "camera_model": "pinhole",
            "intrinsics": [225.0 + i, 226.0, 318.0, 241.0 - i],
            "distortion_model": "equidistant",
            "distortion_coeffs": [-0.02, 0.01, -0.003, 5e-4],
            "resolution": list(SIZE),
            "T_cam_imu": np.linalg.inv(T_body_cam(*pose)).tolist(),
        }
        for i, (*pose, _) in enumerate(SIX.values())
    }
    six, two = folder / "six" / "camchain.yaml", folder / "two" / "calibration.json"
    six.parent.mkdir(parents=True)
    two.parent.mkdir(parents=True)
    six.write_text(calibration_files.yaml_of(chain))
    _write_headset(six.parent, SIX)
    k1, k2, p1, p2, k3, k4, k5, k6 = calibration_files.RATIONAL
    lens = {"fx": 240.0, "fy": 241.0, "cx": 320.0, "cy": 239.0, "k1": k1, "k2": k2, "p1": p1, "p2": p2}
    lens |= {"k3": k3, "k4": k4, "k5": k5, "k6": k6, "rpmax": 2.7}
    poses = [T_body_cam(*pose) for *pose, _ in TWO.values()]
    quaternions = [Rotation.from_matrix(T[:3, :3]).as_quat() for T in poses]
    names = ("px", "py", "pz", "qx", "qy", "qz", "qw")
    content = {
        "T_imu_cam": [dict(zip(names, (*T[:3, 3], *q), strict=True)) for T, q in zip(poses, quaternions, strict=True)],
        "intrinsics": [{"camera_type": "pinhole-radtan8", "intrinsics": lens}] * 2,
        "resolution": [list(SIZE)] * 2,
    }
    two.write_text(json.dumps({"value0": content}))
    _write_headset(two.parent, TWO)
    return {"six": six, "two": two}


def _write_headset(folder: pathlib.Path, views: dict) -> None:
    listed = [
        {"camera": f"cam{i}", "name": name, "upright_turns": turns, "mirror": mirror}
        for i, (name, (_, _, _, turns, mirror)) in enumerate(views.items())
    ]
    content = {"format": "epfv2-asl/1", "T_headset_body": T_HEADSET_BODY.tolist(), "views": listed}
    (folder / "headset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
