"""The house rules, measured on the source: sizes, borders and directions. `python tests/test_house.py` prints them.

Imports point down, outside libraries have one owner, files and functions stay small, checks are said once, and only the
room `models` and EPFv2's exporter know the model EPFv2.
"""

import ast
import graphlib
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "epfv2_jax"

# Lowest first; rooms of one entry are siblings and do not import each other. Commands are above all of them.
LAYERS = (
    ("core",),
    ("geometry",),
    ("structs",),
    ("models", "objectives", "metrics", "data"),
    ("checkpoints", "interop", "testing"),
    ("evaluation", "inference", "profiling"),
    ("training",),
    ("autolabel", "deploy", "viz"),
    ("experiment",),
)
# Outside library -> the rooms or modules that may import it.
OWNERS = {
    "ml_collections": {"experiment.recipe"},
    "absl": {"data"},  # grain needs absl's flags to be parsed
    "optax": {"training"},
    "grain": {"data"},
    "orbax": {"checkpoints"},
    "matplotlib": {"viz"},
    "tensorflow": set(),
    "clu": set(),
    "torch": set(),
    "safetensors": {"models.encoders.weights", "checkpoints.packaged"},
    "huggingface_hub": {"checkpoints.hub"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "jax2onnx": {"deploy"},
    "pyarrow": {"data.labels", "interop.tables"},
    "ray": {"core.tasks"},
    "argparse": {"core", "<command>"},
}
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
MAX_RAISES_PER_1000_LINES = 10
MAX_COMMAND_LINES = 60
# Files above MAX_LINES, with the reason.
LONG_FILES: dict[str, str] = {}
# Who may know EPFv2 besides the room `models`: its exporter, and the default of a configuration that names no kind.
KNOW_EPFV2 = ("deploy.epfv2", "experiment.config")


def modules() -> dict[str, ast.Module]:
    """Returns the parsed source of each module by dotted name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()
COMMANDS = [name for name in MODULES if name and "." not in name and (PACKAGE / f"{name}.py").exists()]


def imported(tree: ast.AST, inside: bool = True) -> list[str]:
    """Returns the dotted names that a module imports, at its top level or (`inside`) within functions too."""
    names = []
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own(target: str) -> str | None:
    """Returns the module of this package that an imported name comes from; None for other libraries."""
    if target.split(".")[0] != "epfv2_jax":
        return None
    name = target.removeprefix("epfv2_jax").lstrip(".")
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def level(name: str) -> int:
    """Returns the layer of a module; commands are above all layers."""
    room = name.split(".")[0]
    return next((i for i, layer in enumerate(LAYERS) if room in layer), len(LAYERS))


def upward_imports() -> list[str]:
    """Returns imports that do not point down."""
    return [
        f"{name} imports {target}"
        for name, tree in MODULES.items()
        for target in filter(None, map(own, imported(tree)))
        if target.split(".")[0] != name.split(".")[0] and level(target) >= level(name)
    ]


def cycles() -> list[str]:
    """Returns one import cycle, as names, if there is any."""
    graph = {
        name: {target for target in filter(None, map(own, imported(tree, inside=False))) if target != name}
        for name, tree in MODULES.items()
    }
    # A package's own imports of its parts are not a dependency of the parts on the package.
    graph = {name: {t for t in targets if not name.startswith(f"{t}.")} for name, targets in graph.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def foreign_imports() -> list[str]:
    """Returns imports of outside libraries by modules that do not own them."""
    found = []
    for name, tree in MODULES.items():
        places = {name, "<command>"} if name in COMMANDS else {name.rsplit(".", n)[0] for n in range(4)}
        for target in imported(tree):
            owners = OWNERS.get(target.split(".")[0])
            if owners is not None and not owners & places:
                found.append(f"{name} imports {target}")
    return found


def knowing_epfv2() -> list[str]:
    """Returns modules outside `models` that import EPFv2's own modules without leave."""
    return sorted(
        name
        for name, tree in MODULES.items()
        if name.split(".")[0] != "models"
        and name not in KNOW_EPFV2
        and any(target and target.startswith("models.epfv2") for target in map(own, imported(tree)))
    )


def lines(name: str) -> int:
    """Returns the number of lines of a module."""
    path = PACKAGE / (name.replace(".", "/") + ".py")
    path = path if path.exists() else PACKAGE / name.replace(".", "/") / "__init__.py"
    return len(path.read_text().splitlines())


def functions() -> list[tuple[str, int, int]]:
    """Returns (module:function, lines, parameters) of every function."""
    found = []
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                args = node.args
                parameters = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
                parameters += (args.vararg is not None) + (args.kwarg is not None)
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                found.append((f"{name}:{node.name}", node.end_lineno - first + 1, parameters))
    return found


def raises_per_1000_lines() -> float:
    """Returns how many `raise ValueError` stand in a thousand lines of the package."""
    raises = 0
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                raises += getattr(node.exc.func, "id", None) == "ValueError"
    return 1000 * raises / sum(map(lines, MODULES))


def measures() -> dict[str, list]:
    """Returns what breaks each rule; all lists are empty in a tidy house."""
    sizes = functions()
    return {
        f"files above {MAX_LINES} lines": [n for n in MODULES if lines(n) > MAX_LINES and n not in LONG_FILES],
        f"commands above {MAX_COMMAND_LINES} lines": [n for n in COMMANDS if lines(n) > MAX_COMMAND_LINES],
        f"functions above {MAX_FUNCTION_LINES} lines": [n for n, length, _ in sizes if length > MAX_FUNCTION_LINES],
        f"functions above {MAX_PARAMETERS} parameters": [n for n, _, count in sizes if count > MAX_PARAMETERS],
        "import cycles": cycles(),
        "imports that point up": upward_imports(),
        "outside libraries imported elsewhere": foreign_imports(),
        "modules that know EPFv2": knowing_epfv2(),
    }


def test_every_layer_exists():
    assert {room for layer in LAYERS for room in layer} <= {name.split(".")[0] for name in MODULES}


def test_the_house_is_tidy():
    assert {rule: broken for rule, broken in measures().items() if broken} == {}


def test_checks_are_said_once():
    assert raises_per_1000_lines() <= MAX_RAISES_PER_1000_LINES


if __name__ == "__main__":
    print(f"{len(MODULES)} modules, {sum(map(lines, MODULES))} lines, {len(COMMANDS)} commands")
    for rule, broken in measures().items():
        print(f"{rule}: {len(broken)}", *broken, sep="\n  ")
    print(
        f"`raise ValueError` in a thousand lines: {raises_per_1000_lines():.1f} (at most {MAX_RAISES_PER_1000_LINES})"
    )
