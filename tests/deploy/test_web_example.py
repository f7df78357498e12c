"""The browser example builds, and in a browser it computes what JAX does, shows it, and tells what it cannot open.

Needs npm, which fetches the locked packages, and Chromium.
"""

import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import threading
import types

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("jax2onnx", reason="needs the extra 'export'")

from small_exports import run_exports, write_checkpoint, write_records

pytestmark = [pytest.mark.extras, pytest.mark.slow]

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "web"
FRAMES = 24
MADE = ("node_modules", "dist", "public")  # left where somebody built the page


@pytest.fixture(scope="module")
def browser() -> str:
    """Returns the path of Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not on this machine (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def packages(browser, tmp_path_factory) -> pathlib.Path:
    """Returns a copy of the example with the packages of its lock file."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not on this machine")
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns(*MADE))
    done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot get the packages: {done.stderr.strip().splitlines()[:1]}")
    return folder


@pytest.fixture(scope="module")
def page(browser, packages, tmp_path_factory):
    """Returns what the page shows by case, and where its screenshots lie."""
    folder = tmp_path_factory.mktemp("graphs")
    write_checkpoint(folder / "parametric", "parametric")
    write_checkpoint(folder / "keypoints", "keypoints")
    write_records(folder / "data" / "validation", FRAMES)
    given = ["--checkpoint", "parametric", "--data", "data", "--golden_frames", "100", "--out"]
    printed, errors = run_exports(
        folder,
        {
            "model": [*given, "model.onnx"],
            "int8": [*given, "int8.onnx", "--precision", "int8", "--frames", "8"],
            "keypoints": ["--checkpoint", "keypoints", "--golden_frames", "12", "--out", "keypoints.onnx"],
        },
    )
    assert all("code 0" in words for words in printed.values()), f"{printed} {errors}"
    golden = dict(np.load(folder / "model.golden.npz"))
    golden["outputs/joints_world_m"][7, 0, 3, 1] += 0.01
    np.savez(folder / "wrong.npz", **golden)
    (folder / "cut.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1000])

    (packages / "public").mkdir()
    for name in ("model.onnx", "model.golden.npz"):
        shutil.copy(folder / name, packages / "public")
    built = subprocess.run(["npm", "run", "build"], cwd=packages, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr

    def files(*names: str) -> dict:
        return {"files": [str(folder / name) for name in names]}

    cases = {
        "default": {"screenshot": str(folder / "default.png")},
        "int8": files("int8.onnx", "int8.golden.npz"),
        "without truth and uncertainty": files("keypoints.onnx", "keypoints.golden.npz"),
        "wrong number": files("wrong.npz"),
        "of another graph": files("model.onnx", "int8.golden.npz"),
        "cut": files("cut.onnx", "model.golden.npz"),
    }
    handler = functools.partial(Silent, directory=packages / "dist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        command = ["node", "drive.mjs", browser, address, str(folder / "profile"), json.dumps(cases)]
        done = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=900)
        server.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    return types.SimpleNamespace(folder=folder, shows=json.loads(done.stdout))


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("case", ["default", "int8", "without truth and uncertainty"])
def test_the_graph_computes_in_the_browser_what_jax_does(page, case):
    shows = page.shows[case]
    assert (shows["state"], shows["errors"], shows["message"]) == ("paused", [], "")
    number = shows["asRecorded"]
    assert shows["frames"] == (12 if "without" in case else FRAMES)
    assert number["parity"]["value"] <= (0.25 if case == "int8" else 1e-3)
    assert number["parity"]["look"] == "good"
    assert number["latency"]["value"] > 0 and "ms" in number["latency"]["text"]
    assert number["change"]["text"] == "0 cm"
    assert (number["error"]["text"] == "–") == ("without" in case)


@pytest.mark.parametrize("case", ["default", "int8", "without truth and uncertainty"])
def test_a_hidden_view_changes_the_predictions_and_not_the_comparison(page, case):
    shows = page.shows[case]
    assert shows["hidden"]["change"]["value"] > 1e-4 and "cm" in shows["hidden"]["change"]["text"]
    assert shows["hidden"]["parity"] == shows["asRecorded"]["parity"]
    assert shows["stands"]


def test_the_shown_error_is_that_of_the_golden_predictions(page):
    golden = np.load(page.folder / "model.golden.npz")
    distance = np.linalg.norm(golden["outputs/joints_world_m"] - golden["recorded/joints_world_m"], axis=-1)
    assert np.abs(distance.mean(axis=(1, 2)) - page.shows["default"]["asRecorded"]["error"]["value"]).min() < 1e-4


def test_a_wrong_golden_number_is_seen(page):
    parity = page.shows["wrong number"]["asRecorded"]["parity"]
    assert parity["value"] == pytest.approx(0.01, rel=0.01) and parity["look"] == "bad"


@pytest.mark.parametrize(
    "case, message",
    [
        ("of another graph", "int8.golden.npz: belongs to another graph; open the two that were exported together"),
        ("cut", "cut.onnx: not an ONNX file, or cut off; copy it again"),
    ],
)
def test_files_that_do_not_fit_are_told(page, case, message):
    assert (page.shows[case]["state"], page.shows[case]["message"]) == ("failed", message)


def test_the_picture_shows_both_poses(page):
    pixels = np.asarray(Image.open(page.folder / "default.png").convert("RGB")).astype(int)
    body, views = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] * 6 // 10 :]
    for part in (body, views):
        red, blue = part[..., 0], part[..., 2]
        assert (red > blue + 80).sum() > 200  # the prediction is orange
        assert (blue > red + 80).sum() > 200  # the truth is blue
