"""Joints of an animated body in a GLB file: nodes by name, moved by the channels of its first animation.

Momentum writes the motion of a character twice: as parameters of its own in an extension, and as an animation of the
joints' nodes, which is plain glTF and all that is read here. Lengths in the file are metres, y is up.
"""

import pathlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import checks, files
from epfv2_jax.geometry import skeleton

#: Largest JSON part of a GLB file, bytes: our choice.
MAX_JSON_BYTES = 64_000_000
_MAX_NODES = 10_000
# Frames that are moved at once.
_CHUNK = 4096
_FLOAT, _WIDTHS = 5126, {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_REST = {"translation": (0.0, 0.0, 0.0), "rotation": (0.0, 0.0, 0.0, 1.0), "scale": (1.0, 1.0, 1.0)}


def read_motion(path: pathlib.Path, names: Sequence[str], num_frames: int) -> np.ndarray:
    """Returns where nodes are in the frames of the first animation: (num_frames, len(names), 3) float64, metres, y up.

    Args:
      path: of the GLB file.
      names: of the nodes.
      num_frames: that each channel of the animation must have.

    Raises:
      ValueError: the file is missing or damaged, has no such node, or no animation of so many frames.
    """
    files.check_file(path, "download it again")
    # Exception: what damaged content makes lookups raise.
    with checks.naming(f"{path}", Exception, "download it again"):
        document, binary = _parts(path)
        nodes, animations = document["nodes"], document.get("animations", [])
        checks.within(1, _MAX_NODES, **{"nodes": len(nodes)})
        checks.not_empty("animations", animations, "there is no motion of nodes")
        by_name = {node.get("name"): i for i, node in enumerate(nodes)}
        for name in names:
            checks.one_of(by_name, node=name)
        parents = {child: i for i, node in enumerate(nodes) for child in node.get("children", ())}
        wanted = _with_ancestors([by_name[name] for name in names], parents)
        channels = _channels(document, binary, num_frames)
        checks.not_empty("channels that move the joints", [key for key in channels if key[0] in wanted], "no motion")
        found = np.empty((num_frames, len(names), 3))
        for start in range(0, num_frames, _CHUNK):
            part = slice(start, min(start + _CHUNK, num_frames))
            placed: dict[int, np.ndarray] = {}
            for i in wanted:  # parents first
                local = _local(nodes[i], i, channels, part)
                placed[i] = placed[parents[i]] @ local if i in parents else local
            found[part] = np.stack([placed[by_name[name]][:, :3, 3] for name in names], axis=1)
        checks.finite("places of the joints", found, "the motion is damaged")
    return found


def names_in(path: pathlib.Path) -> set[str]:
    """Returns the names of EgoBody3M's joints that a GLB file has nodes of; ValueError where it is damaged."""
    with checks.naming(f"{path}", Exception, "download it again"):
        document, _ = _parts(path)
        return {node.get("name") for node in document["nodes"]} & set(skeleton.EGOBODY3M.joint_names)


def _parts(path: pathlib.Path) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the JSON of a GLB file, and its bytes of numbers, which stay on disk."""
    with path.open("rb") as file:
        magic, version, _, length, kind = struct.unpack("<4sIIII", file.read(20))
        checks.equal("GLB header", (magic, version, kind), (b"glTF", 2, 0x4E4F534A))
        checks.within(2, MAX_JSON_BYTES, **{"bytes of the JSON part": length})
        document = files.parse_json(file.read(length), "JSON part")
        size, kind = struct.unpack("<II", file.read(8))
        checks.equal("kind of the second part", kind, 0x004E4942)
        start = file.tell()
    checks.within(0, path.stat().st_size - start, **{"bytes of the binary part": size})
    checks.instance("JSON part", document, dict, "an object")
    return document, np.memmap(path, np.uint8, "r", start, (size,))


def _with_ancestors(nodes: Sequence[int], parents: dict[int, int]) -> list[int]:
    """Returns nodes and all above them, parents first."""
    order: list[int] = []
    for node in nodes:
        chain = []
        while node is not None and node not in order:
            if node in chain:
                raise ValueError(f"nodes[{node}] is its own ancestor")
            chain.append(node)
            node = parents.get(node)
        order += reversed(chain)
    return order


def _channels(document: dict[str, Any], binary: np.ndarray, num_frames: int) -> dict[tuple[int, str], np.ndarray]:
    """Returns the values (num_frames, 3 or 4) of the first animation by node and what they move."""
    animation, found = document["animations"][0], {}
    for i, channel in enumerate(animation["channels"]):
        target, sampler = channel["target"], animation["samplers"][channel["sampler"]]
        if target["path"] in _REST:
            with checks.naming(f"animations[0].channels[{i}]"):
                values = _accessor(document, binary, sampler["output"])
                width = len(_REST[target["path"]])
                checks.array(f"values of {target['path']}", values, (num_frames, width), np.floating)
                checks.one_of(("STEP", "LINEAR"), interpolation=sampler.get("interpolation", "LINEAR"))
                found[target["node"], target["path"]] = values
    return found


def _accessor(document: dict[str, Any], binary: np.ndarray, index: int) -> np.ndarray:
    """Returns the floats (count, width) of an accessor, on disk."""
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    checks.equal(f"accessors[{index}].componentType", accessor["componentType"], _FLOAT)
    checks.equal(f"accessors[{index}].sparse", accessor.get("sparse"), None)
    checks.equal(f"bufferViews of accessors[{index}], byteStride", view.get("byteStride"), None)
    checks.equal(f"bufferViews of accessors[{index}], buffer", view["buffer"], 0)
    width, count = _WIDTHS[accessor["type"]], accessor["count"]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    for what, number in {"start": start, "count": count}.items():
        checks.within(0, binary.size, **{f"accessors[{index}], {what}": number})
    data = binary[start : start + 4 * width * count]
    checks.equal(f"accessors[{index}], bytes in the file", data.size, 4 * width * count)
    return data.view("<f4").reshape(count, width)


def _local(node: dict[str, Any], index: int, channels: dict[tuple[int, str], np.ndarray], part: slice) -> np.ndarray:
    """Returns T_parent_node (frames, 4, 4) of a part of the frames, which may scale."""
    if "matrix" in node:
        raise ValueError(f"nodes[{index}].matrix: expected translation, rotation and scale; write the file so")
    n = part.stop - part.start
    values = {}
    for path, rest in _REST.items():
        stored = channels[index, path][part] if (index, path) in channels else node.get(path, rest)
        values[path] = np.broadcast_to(np.asarray(stored, np.float64), (n, len(rest)))
    T = np.zeros((n, 4, 4))
    T[:, :3, :3] = Rotation.from_quat(values["rotation"]).as_matrix() * values["scale"][:, None, :]
    T[:, :3, 3], T[:, 3, 3] = values["translation"], 1.0
    return T
