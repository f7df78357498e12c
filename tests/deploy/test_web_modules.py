"""The modules of the browser example read files and project points as the package does. Needs Node.js 20 or newer."""

import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from epfv2_jax.geometry import cameras
from epfv2_jax.metrics import pose

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "web" / "src"


def node(program: str, given) -> dict:
    """Returns the JSON that a program of JavaScript prints; `given` is its input."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not on this machine")
    program = f"const given = {json.dumps(given)};\n" + program.replace("SOURCE", SOURCE.as_uri())
    command = ["node", "--input-type=module", "-e", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


READ = """
import { readFileSync } from 'node:fs';
import { readNpz } from 'SOURCE/npz.js';
import { readMetadata } from 'SOURCE/graph.js';
const read = given.file.endsWith('.npz') ? readNpz : readMetadata;
const bytes = readFileSync(given.file);
let told = null;
let arrays = {};
try {
  arrays = read(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length), 'the file');
} catch (error) {
  told = error.message;
}
for (const array of Object.values(arrays)) array.data = typeof array.data === 'string' ? array.data : [...array.data];
console.log(JSON.stringify({ told, arrays }));
"""


def test_arrays_are_those_that_numpy_wrote(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "inputs/images": rng.integers(0, 256, (2, 3), np.uint8),
        "inputs/view_valid": rng.random((3, 1, 2)) > 0.5,
        "inputs/frame_gap": np.array([[1], [-3]], np.int32),
        "outputs/joints": rng.normal(size=(2, 5)).astype(np.float32),
        "recorded/time_s": rng.normal(size=4),
        "tolerance/joints": np.asarray(1e-3),
        "graph_sha256": np.asarray("0f" * 32),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = node(READ, {"file": str(tmp_path / "a.npz")})["arrays"]
    assert found.keys() == arrays.keys()
    assert found.pop("graph_sha256")["data"] == str(arrays.pop("graph_sha256"))
    for name, expected in arrays.items():
        assert found[name]["dtype"] == expected.dtype.name and found[name]["shape"] == list(expected.shape)
        np.testing.assert_array_equal(np.asarray(found[name]["data"], expected.dtype), expected.ravel())


def test_files_that_cannot_be_used_are_told(tmp_path):
    def told(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return node(READ, {"file": str(tmp_path / name)})["told"]

    np.savez(tmp_path / "a.npz", x=np.zeros(100))
    whole = (tmp_path / "a.npz").read_bytes()
    assert told("b.npz", whole[:300]) == "the file: not an .npz file; take the .golden.npz that the export wrote"
    assert told("b.npz", whole[:100] + whole[200:]).startswith("the file: ")
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(100))
    assert "x.npy is compressed" in told("b.npz", (tmp_path / "a.npz").read_bytes())
    np.savez(tmp_path / "a.npz", x=np.zeros(100, np.complex64))
    assert "x.npy holds <c8" in told("b.npz", (tmp_path / "a.npz").read_bytes())
    assert told("a.onnx", b"no graph") == "the file: not an ONNX file, or cut off; copy it again"
    assert "write it with python -m epfv2_jax.export" in told("a.onnx", b"")


PROJECT = """
import { cameraOf, project } from 'SOURCE/cameras.js';
const inputs = Object.fromEntries(Object.entries(given.inputs).map(
  ([name, { data, dims }]) => [name, { data: Float32Array.from(data), dims }]));
const camera = cameraOf(inputs, 1, given.model);
console.log(JSON.stringify(given.points.map((point) => project(camera, point))));
"""


def camera_of(model: str) -> cameras.Camera:
    given = {"focal_px": (210.0, 205.0), "center_px": (320.5, 239.0), "size_px": (640, 480)}
    if model == "pinhole":
        return cameras.pinhole(**given)
    s = (1e-3, -2e-3, 3e-4, 1e-3)
    if model == "rational":
        return cameras.rational(**given, k=(0.42, 0.21, 0.012, 0.74, 0.33, 0.046), p=(-3e-4, 4e-4), s=s)
    return cameras.fisheye624(**given, k=(-0.02, 0.01, -4e-3, 5e-4, 1e-4, -1e-5), p=(-3e-4, 4e-4), s=s)


@pytest.mark.parametrize("model", ["pinhole", "fisheye", "rational"])
def test_points_are_projected_as_the_package_does(model):
    camera = camera_of(model)
    points = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    points[0] = 0, 0, 1
    T_cam_headset = np.eye(4, dtype=np.float32)
    T_cam_headset[:3] = [[0, 1, 0, 0.1], [0, 0, 1, -0.2], [1, 0, 0, 0.3]]
    names = ("focal_px", "center_px", "radial", "tangential", "thin_prism", "max_angle_rad")
    calibration = {name: np.asarray(getattr(camera, name)) for name in names} | {"T_cam_headset": T_cam_headset}
    inputs = {  # of two views; the first one's numbers are wrong
        name: {"data": [*[7.0] * value.size, *value.ravel().tolist()], "dims": [1, 2, *value.shape]}
        for name, value in calibration.items()
    }
    found = node(PROJECT, {"inputs": inputs, "model": model, "points": points.tolist()})
    uv_px, valid = map(np.asarray, cameras.project(camera, points @ T_cam_headset[:3, :3].T + T_cam_headset[:3, 3]))
    assert [pixel is not None for pixel in found] == valid.tolist()
    assert 20 < valid.sum() < 180
    np.testing.assert_allclose([pixel for pixel in found if pixel is not None], uv_px[valid], atol=2e-2)


def test_statistics_are_those_of_the_package():
    program = """
    import { bonesOf, toHeadset, transformed } from 'SOURCE/skeleton.js';
    import { ellipsoidRadius, largestDifference, meanDistance, median } from 'SOURCE/statistics.js';
    const { T, point } = given;
    const zeros = [0, 0, 0, 0, 0, 0];
    console.log(JSON.stringify({
      radii: given.levels.map((level) => [2.5, 4, 30].map((nu) => ellipsoidRadius(level, nu))),
      medians: [median([3, 1, 2]), median([4, 1])],
      largest: [largestDifference([1, -2], [1.5, 1]), largestDifference([NaN], [0]) === Infinity],
      mean: [meanDistance([0, 0, 0, 3, 4, 0], zeros), meanDistance([9, 0, 0, 0, 4, 0], zeros, [0, 1])],
      back: toHeadset(T, transformed(T, point)),
      bones: bonesOf(given.parents),
    }));
    """
    T = np.array([[0, 1, 0, 0.1], [0, 0, 1, -0.2], [1, 0, 0, 0.3], [0, 0, 0, 1]])
    levels = (0.1, 0.5, 0.9)
    parents = [2, 0, -1, -1]
    found = node(program, {"levels": levels, "T": T.ravel().tolist(), "point": [1, 2, 3], "parents": parents})
    expected = [[pose.ellipsoid_radius(level, nu) for nu in (2.5, 4, 30)] for level in levels]
    np.testing.assert_allclose(found["radii"], expected, rtol=1e-3)
    assert found["medians"] == [2, 2.5]
    assert found["largest"] == [3, True]
    assert found["mean"] == [2.5, 4]
    np.testing.assert_allclose(found["back"], [1, 2, 3])
    assert sorted(map(sorted, found["bones"])) == [[0, 1], [0, 2], [2, 3]]
