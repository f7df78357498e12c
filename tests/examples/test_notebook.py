"""The notebook examples/quickstart.ipynb: committed without outputs, its recipe valid, and run as a whole."""

import json
import pathlib
import re

import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_outputs_are_not_committed():
    assert len(CODE) > 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CODE)


def test_its_recipe_is_valid(monkeypatch):
    names = {}
    monkeypatch.chdir(NOTEBOOK.parent)
    exec("".join(CODE[0]["source"]), names)
    assert names["config"].step.steps == 300 and names["config"].data.source == "records"


@pytest.mark.slow
def test_it_runs_and_the_model_beats_the_mean_pose(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra 'test'")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra 'test'")
    pytest.importorskip("ipykernel", reason="needs the extra 'test'")
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as on a machine of which nothing is said
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling takes longer than the steps
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    scores = json.loads((tmp_path / "runs/notebook/evaluation/metrics.json").read_text())
    assert scores["metrics"]["mpjpe_cm"] < scores["baselines"]["mean pose"]["mpjpe_cm"]
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3  # the views, the losses, a frame of the result
    # A warning on stderr splits what a cell prints into several outputs.
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    streamed = re.findall(r"^frame +\d+: mean error", printed, re.MULTILINE)
    assert len(streamed) == 16
