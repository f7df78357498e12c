"""Writes sequences in the format of Nymeria, but for the VRS file: `aria_files.FakeVrs` stands in for it."""

import json
import pathlib
import struct

import aria_files
import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.data.readers import nymeria
from epfv2_jax.geometry import skeleton

BODY = skeleton.EGOBODY3M
NAME = "20230607_s0_james_johnson_act0_e72nhq"
STEP_NS = 1e9 / 240
ROWS = 480
# z up, for y up.
R_WORLD_YUP = Rotation.from_euler("x", 90, degrees=True).as_matrix()
T_DEVICE_HEAD = np.eye(4)
T_DEVICE_HEAD[:3, :3] = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
T_DEVICE_HEAD[:3, 3] = (0.05, 0.11, -0.14)
# The suit's world, z up too, lies elsewhere and is turned.
T_SUIT_WORLD = np.eye(4)
T_SUIT_WORLD[:3, :3] = Rotation.from_euler("z", 1.3).as_matrix()
T_SUIT_WORLD[:3, 3] = (4.0, -7.0, 0.3)


def pose(time_ns: float) -> np.ndarray:
    """T_world_headset, y up, of a head that turns about all axes."""
    seconds = (time_ns - aria_files.START_NS) / 1e9
    T = np.eye(4)
    angles = (0.8 * np.sin(3 * seconds), 0.4 * np.sin(4 * seconds + 1), 0.3 * np.sin(5 * seconds + 2))
    T[:3, :3] = Rotation.from_euler("YXZ", angles).as_matrix()
    T[:3, 3] = (0.3 * seconds, 1.6 + 0.05 * np.sin(2 * seconds), 0.5 * seconds)
    return T


def joints(time_ns: float) -> np.ndarray:
    """The 26 joints (J, 3) in the world, y up: upright below the headset."""
    return BODY.rest_joints_headset_m() + pose(time_ns)[:3, 3]


def times_ns() -> np.ndarray:
    """The device's times of the suit's rows (F,), half a second before the first image and later."""
    return aria_files.START_NS - 500_000_000 + np.rint(np.arange(ROWS) * STEP_NS).astype(np.int64)


def to_suit(points_m: np.ndarray) -> np.ndarray:
    """Points in the suit's world for points in ours."""
    return points_m @ (T_SUIT_WORLD[:3, :3] @ R_WORLD_YUP).T + T_SUIT_WORLD[:3, 3]


def segments() -> dict[str, np.ndarray]:
    """The arrays of an xdata.npz."""
    positions = np.zeros((ROWS, len(nymeria.PARTS), 3))
    quaternions = np.tile([1.0, 0.0, 0.0, 0.0], (ROWS, len(nymeria.PARTS), 1))
    turn = np.eye(4)
    turn[:3, :3] = R_WORLD_YUP
    head = nymeria.PARTS.index("Head")
    for row, time_ns in enumerate(times_ns()):
        placed = to_suit(joints(time_ns))
        for ours, part in nymeria.JOINTS.items():
            positions[row, nymeria.PARTS.index(part)] = placed[BODY.index(ours)]
        T = T_SUIT_WORLD @ turn @ pose(time_ns) @ np.linalg.inv(aria_files.T_DEVICE_HEADSET) @ T_DEVICE_HEAD
        positions[row, head] = T[:3, 3]
        quaternions[row, head] = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
    timecode_ns = times_ns() - aria_files.FakeVrs.device_minus_timecode_ns
    return {
        "timestamps_us": timecode_ns / 1000,
        "frameCount": np.array(ROWS),
        "frameRate": np.array(240),
        "segment_tXYZ": positions.reshape(ROWS, -1),
        "segment_qWXYZ": quaternions.reshape(ROWS, -1),
    }


def write_glb(path: pathlib.Path, offset_m: float = 0.0) -> None:
    """Writes all joints as nodes below one that turns, moves and scales; glTF's axes, y up, in the suit's world."""
    R_gltf_suit = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    places = np.stack([to_suit(joints(time_ns)) for time_ns in times_ns()]) @ R_gltf_suit.T + offset_m
    turns = Rotation.from_rotvec(np.linspace(0, 1, ROWS)[:, None] * [0.3, 0.5, -0.4])
    moves = np.linspace(0, 1, ROWS)[:, None] * [1.0, 2.0, 3.0]
    local = np.einsum("fji,fnj->fni", turns.as_matrix(), places - moves[:, None]) / 2
    values = [moves, turns.as_quat(), np.full((ROWS, 3), 2.0), *np.swapaxes(local, 0, 1)]
    blob, accessors, views, channels = b"", [], [], []
    for i, value in enumerate(values):
        data = value.astype("<f4").tobytes()
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        kind = f"VEC{value.shape[1]}"
        accessors.append({"bufferView": i, "componentType": 5126, "count": ROWS, "type": kind})
        path_of = ("translation", "rotation", "scale")[i] if i < 3 else "translation"
        channels.append({"sampler": i, "target": {"node": max(0, i - 2), "path": path_of}})
        blob += data
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"name": "root", "children": list(range(1, 27))}, *({"name": name} for name in BODY.joint_names)],
        "animations": [
            {"channels": channels, "samplers": [{"input": 0, "interpolation": "STEP", "output": i} for i in range(29)]}
        ],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    parts = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + blob
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(parts)) + parts)


def write(folder: pathlib.Path) -> None:
    """Writes a sequence without a GLB file."""
    for name in ("body", "recording_head/data"):
        (folder / name).mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"fake_name": "james_johnson", "timesync": True}))
    (folder / "recording_head" / "data" / "data.vrs").write_bytes(b"VisionRe")
    slam = folder / "recording_head" / "mps" / "slam"
    aria_files.write_trajectory(
        slam / "closed_loop_trajectory.csv",
        R_WORLD_YUP,
        step_ns=1_000_000,
        start_ns=aria_files.START_NS - 400_000_000,
        duration_ns=1_400_000_000,
        pose_at=pose,
    )
    np.savez(folder / "body" / "xdata.npz", **segments())
