"""Tiny sequences in the EgoBody3M layout: bodies in random poses, seen by a headset with small images."""

import json
import zipfile

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from epfv2_jax.data import images, rig
from epfv2_jax.geometry import cameras, kinematics, skeleton

J = skeleton.EGOBODY3M.num_joints
SIZES_PX = ((64, 48), (128, 102), (128, 102), (64, 48))


def small_rig():
    """The default headset, stored orientation, images of SIZES_PX."""
    default = rig.default_rig()
    views = [
        cameras.resize(jax.tree.map(lambda x, v=v: x[v], default.cameras), *size) for v, size in enumerate(SIZES_PX)
    ]
    return default.replace(cameras=cameras.stack(views))


def posed(rng):
    """The joints (J, 3) of a grown person in a random pose, headset frame, metres."""
    body = skeleton.EGOBODY3M
    rotations = Rotation.from_rotvec(rng.normal(0, 0.5, (J, 3))).as_matrix().astype(np.float32)
    root_m, offsets_m = (np.asarray(x, np.float32) for x in (body.rest_root_headset_m, body.rest_offsets_m))
    joints_m, _ = kinematics.forward_kinematics(body.parents, np.eye(3, dtype=np.float32), root_m, rotations, offsets_m)
    return joints_m + body.rest_joints_headset_m()[0] - joints_m[0]


def frame_fields(frames, seed=0):
    """The JSON fields of the frames with these numbers."""
    rng = np.random.default_rng(seed)
    headset = small_rig()
    unlimited = cameras.without_turning_limit(headset.cameras)
    fields = []
    for frame in frames:
        turn = rng.uniform(-3, 3)
        T_world_headset = np.eye(4)
        T_world_headset[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
        T_world_headset[:3, 3] = rng.uniform((-1, 1.5, -1), (1, 1.7, 1))
        joints_headset_m = posed(rng)
        T_cam_headset = np.asarray(headset.T_cam_headset)
        joints_cam_m = (
            np.einsum("vij,nj->vni", T_cam_headset[:, :3, :3], joints_headset_m) + T_cam_headset[:, None, :3, 3]
        )
        uv, _ = cameras.project(unlimited, joints_cam_m)
        joints_world_m = joints_headset_m @ T_world_headset[:3, :3].T + T_world_headset[:3, 3]
        T_world_headset[:3, 3] *= 100
        projected = np.concatenate([uv, 100 * joints_cam_m[..., 2:]], axis=-1)
        fields.append(
            {
                "frame_index": frame,
                "world_from_headset_xf_cm": T_world_headset.tolist(),
                "annotation_level": frame % 2,
                "joint_positions_world_cm": (100 * joints_world_m).tolist(),
                **{f"projected_joint_positions_cam{v}_px": projected[v].tolist() for v in range(len(SIZES_PX))},
            }
        )
    return fields


def stored_image(frame, view):
    """A smooth image whose brightness tells frame, view and place."""
    width, height = SIZES_PX[view]
    v, u = np.mgrid[:height, :width]
    return (30 + 5 * (frame % 10) + 20 * view + 40 * u / width + 60 * v / height).astype(np.uint8)


class SequenceWriter:
    """Writes a pair of zips; `fields` and `jpegs` may be spoilt before `write`."""

    def __init__(self, folder, sequence, frames, seed=0):
        self.folder, self.sequence = folder, sequence
        self.fields = dict(zip(frames, frame_fields(frames, seed), strict=True))
        self.jpegs = {(f, v): images.encode_grey(stored_image(f, v), 95) for f in frames for v in range(len(SIZES_PX))}
        self.extra = {}

    def write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(self.folder / f"{self.sequence}.metadata.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for frame, fields in self.fields.items():
                content = fields if isinstance(fields, bytes) else json.dumps(fields)
                file.writestr(f"{self.sequence}/frame{frame:04d}.json", content)
            for name, content in self.extra.items():
                file.writestr(name, content)
        with zipfile.ZipFile(self.folder / f"{self.sequence}.images.zip", "w", zipfile.ZIP_STORED) as file:
            for (frame, view), jpeg in self.jpegs.items():
                file.writestr(f"{self.sequence}/frame{frame:04d}_cam{view}.jpg", jpeg)


@pytest.fixture
def new_sequence(tmp_path):
    """new_sequence(sequence, frames, split) -> a SequenceWriter below tmp_path / "zips"."""

    def new(sequence="100", frames=range(12), split="train", seed=0):
        return SequenceWriter(tmp_path / "zips" / split, sequence, tuple(frames), seed)

    return new


@pytest.fixture(scope="session")
def bomb_jpeg():
    """380 bytes that declare an image of 65500 x 65500 pixels."""
    jpeg = bytearray(images.encode_grey(np.zeros((16, 16), np.uint8)))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = (65500).to_bytes(2, "big") * 2
    return bytes(jpeg[:380])
