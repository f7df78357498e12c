"""Imports point down only, and each outside library is imported only by the layers that own it."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "epfv2_jax"

# Lowest first; modules of one entry are siblings and do not import each other.
LAYERS = (
    ("core",),
    ("geometry",),
    ("structs",),
    ("models", "objectives", "metrics", "data"),
    ("checkpoints", "evaluation", "testing"),
    ("inference", "profiling"),
    ("training",),
    ("autolabel", "deploy", "viz"),
    ("experiment",),
)
# Outside library -> the places that may import it.
OWNERS = {
    "ml_collections": {"experiment", "<cli>"},
    "absl": {"experiment", "<cli>", "data.pipeline"},  # grain needs absl's flags to be parsed
    "optax": {"training"},
    "grain": {"data", "training"},
    "orbax": {"checkpoints"},
    "matplotlib": {"viz"},
    "tensorflow": set(),
    "clu": set(),
    "torch": set(),
    "safetensors": {"models.encoders.weights.torch_weights"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "jax2onnx": {"deploy"},
}


def modules() -> dict[str, ast.Module]:
    """Returns the parsed source of each module by dotted name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(p for p in parts if p != "__init__")
        found[name] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()


def level(name: str) -> int:
    """Returns the layer of a module; command-line verbs and nothing else are above all layers."""
    top = name.split(".")[0]
    for i, layer in enumerate(LAYERS):
        if top in layer:
            return i
    return len(LAYERS)


def imported(tree: ast.AST) -> list[str]:
    """Returns the dotted names that a module imports, at module level or within functions."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("name", [n for n in MODULES if n])
def test_imports_point_down(name):
    for target in imported(MODULES[name]):
        if not target.startswith("epfv2_jax."):
            continue
        target = target.removeprefix("epfv2_jax.")
        if target == "__version__":
            continue
        same_top = target.split(".")[0] == name.split(".")[0]
        assert same_top or level(target) < level(name), (
            f"{name} (layer {level(name)}) imports {target} (layer {level(target)})"
        )


@pytest.mark.parametrize("name", [n for n in MODULES if n])
def test_outside_libraries_have_owners(name):
    place = name.split(".")[0] if level(name) < len(LAYERS) else "<cli>"
    for target in imported(MODULES[name]):
        owners = OWNERS.get(target.split(".")[0])
        assert owners is None or place in owners or name in owners, f"{name} imports {target}"


def test_every_layer_exists():
    tops = {n.split(".")[0] for n in MODULES if n}
    assert {m for layer in LAYERS for m in layer} <= tops
