"""Writes synthetic sequences as recordings (docs/own_data.md), so that their reader reads them."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import config as config_lib
from epfv2_jax.core import files
from epfv2_jax.data import images
from epfv2_jax.data.calibration.formats import euroc
from epfv2_jax.data.readers.recording import HEADSET_NAME, Headset
from epfv2_jax.data.synthetic.sequence import Sequence
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON
from epfv2_jax.structs import Rig

_POSE = ("p_RS_R_x [m]", "p_RS_R_y [m]", "p_RS_R_z [m]", "q_RS_w []", "q_RS_x []", "q_RS_y []", "q_RS_z []")


def write_headset(headset: Headset, directory: pathlib.Path) -> None:
    """Writes headset.yaml for all sequences below a folder: views in the order of the rig's cameras, the world y up."""
    views = tuple(dataclasses.replace(view, camera=f"cam{v}") for v, view in enumerate(headset.views))
    content = dataclasses.replace(headset, views=views, world_up="y", joints={})
    files.write_yaml(directory / HEADSET_NAME, config_lib.to_mapping(content))


def write(sequence: Sequence, rig: Rig, headset: Headset, grey: list[np.ndarray], folder: pathlib.Path) -> None:
    """Writes a sequence into `folder`, whole or not at all.

    Args:
      sequence: people and poses of F frames.
      rig: of the stored images, leading axis V.
      headset: its body frame.
      grey: images [V] (F, H_v, W_v) uint8, as they are stored.
      folder: of the sequence.
    """
    T_headset_body = np.asarray(headset.T_headset_body, np.float64)
    stamps_ns = np.rint(np.arange(len(sequence.T_world_headset)) * 1e9 / sequence.clip.fps).astype(np.int64)
    T_world_body = sequence.T_world_headset.astype(np.float64) @ T_headset_body
    with files.publishing(folder) as own:
        for v, pictures in enumerate(grey):
            camera = jax.tree.map(lambda x, v=v: np.asarray(x)[v], rig.cameras)
            T_cam_body = np.asarray(rig.T_cam_headset, np.float64)[v] @ T_headset_body
            sensor = euroc.sensor(camera, np.linalg.inv(T_cam_body))
            _write_camera(own / "mav0" / f"cam{v}", sensor, stamps_ns, pictures)
        quaternions = Rotation.from_matrix(T_world_body[:, :3, :3]).as_quat(scalar_first=True)
        _write_table(own / "mav0/gt", _POSE, stamps_ns, np.concatenate([T_world_body[:, :3, 3], quaternions], axis=-1))
        columns = [f"{name}_{axis} [m]" for name in SKELETON.joint_names for axis in "xyz"]
        joints_m = sequence.joints_world_m.reshape(len(stamps_ns), -1)
        _write_table(own / "mav0/joints0", columns, stamps_ns, joints_m)
        names = list(SKELETON.joint_names)
        description = {"sensor_type": "joints", "frame": "world", "unit": "m", "names": names}
        files.write_yaml(own / "mav0/joints0/sensor.yaml", description)


def _write_camera(folder: pathlib.Path, sensor: dict[str, Any], stamps_ns: np.ndarray, pictures: np.ndarray) -> None:
    (folder / "data").mkdir(parents=True)
    files.write_yaml(folder / "sensor.yaml", sensor)
    for stamp, picture in zip(stamps_ns, pictures, strict=True):
        (folder / "data" / f"{stamp}.jpg").write_bytes(images.encode_grey(picture))
    rows = "".join(f"{stamp},{stamp}.jpg\n" for stamp in stamps_ns)
    (folder / "data.csv").write_text(f"#timestamp [ns],filename\n{rows}")


def _write_table(folder: pathlib.Path, columns: list[str], stamps_ns: np.ndarray, values: np.ndarray) -> None:
    folder.mkdir(parents=True)
    rows = (f"{stamp}," + ",".join(f"{x:.9g}" for x in row) for stamp, row in zip(stamps_ns, values, strict=True))
    (folder / "data.csv").write_text("\n".join([",".join(("#timestamp [ns]", *columns)), *rows, ""]))
