"""Describes the fields of a configuration from its source code: their defaults, and the comments beside them.

Nothing is imported, so that `--help` stays quick, and the comments need no copy.
"""

import ast
import dataclasses
import functools
import io
import pathlib
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[2]  # of the package
_TYPES = {"str": "TEXT", "int": "N", "float": "X", "bool": "true|false"}

#: A module's path and the top-level statement that defines something there.
_Place = tuple[pathlib.Path, ast.stmt]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """A field as a flag takes it."""

    name: str
    default: str | None  # the text of its default; None: the recipe must set it
    expects: str  # what may be given: TEXT, a number N or X, or choices
    comment: str  # may be empty

    @property
    def choices(self) -> tuple[str, ...] | None:
        """What may be given, where those are few words."""
        words = tuple(self.expects.split("|"))
        return words if len(words) > 1 and not {"TEXT", "N", "X"}.intersection(re.split(r"\W", self.expects)) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The fields of one dataclass of a configuration."""

    path: str  # dotted key of the group; "" for the configuration itself
    kind: str | None  # of a group that is one of several classes
    same_as: str | None  # another group that lists the fields, since it is of the same class
    doc: str  # first paragraph of the class's docstring, and what the comment beside the group's field adds
    fields: tuple[Field, ...]

    def name(self, field: Field) -> str:
        """Returns the dotted key of one of the fields."""
        return f"{self.path}.{field.name}".lstrip(".")


def describe(module: str, cls: str, width: int) -> str:
    """Returns each field of a configuration as a flag with default and comment, in lines of at most `width` letters."""
    lines = []
    for group in groups(module, cls):
        kind = f", with --config.{group.path}.kind={group.kind}" if group.kind else ""
        title = f"{group.path}{kind}: " if group.path else ""
        lines += ["", *textwrap.wrap(f"{title}{group.doc}", width)]
        if group.same_as is not None:
            lines.append(f"  --config.{group.path}.FIELD=VALUE  the fields of {group.same_as}")
        for field in group.fields:
            head = f"  --config.{group.name(field)}={field.expects if field.default is None else field.default}"
            plain = field.default not in (None, "None", "()") and field.expects in _TYPES.values()
            told = "required" if field.default is None else "" if plain else field.expects
            text = "; ".join(filter(None, [told, field.comment]))
            lines += textwrap.wrap(f"{head}  {text}", width, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines[1:]) + "\n"


def groups(module: str, cls: str) -> list[Group]:
    """Returns the fields of a configuration by group, the outer ones first.

    Args:
      module: dotted name of the module that holds the dataclass.
      cls: its name.
    """
    return list(_walk(_find(_module_path(module), cls), "", None, "", {}))


def _walk(place: _Place, path: str, kind: str | None, note: str, seen: dict[ast.stmt, str]) -> Iterator[Group]:
    """Yields the group of a dataclass, then those inside it. `seen` maps classes to the paths that list them."""
    file, cls = place
    same_as = seen.get(cls)
    seen.setdefault(cls, path)
    inner, fields = [], []
    for statement in () if same_as is not None else cls.body:
        if not isinstance(statement, ast.AnnAssign):
            continue
        field = _field(file, statement)
        if kinds := _nested(file, statement.annotation):
            absent = "absent unless a field of it is set" if field.default == "None" else ""
            inner.append((f"{path}.{field.name}".lstrip("."), kinds, "; ".join(filter(None, [field.comment, absent]))))
        else:
            fields.append(field)
    doc = (ast.get_docstring(cls) or "").split("\n\n")[0].replace("\n", " ")
    doc = f"{doc} ({note})" if note else doc
    yield Group(path=path, kind=kind, same_as=same_as, doc=doc, fields=tuple(fields))
    for inner_path, kinds, inner_note in inner:
        for inner_kind, inner_place in kinds.items():
            yield from _walk(inner_place, inner_path, inner_kind, inner_note, seen)


def _field(file: pathlib.Path, statement: ast.AnnAssign) -> Field:
    """Returns the field that a statement of a dataclass defines."""
    comments, above = _comments(file), []
    line = statement.lineno - 1
    while comments.get(line, ("", False))[1]:
        above.insert(0, comments[line][0])
        line -= 1
    beside = comments.get(statement.end_lineno, ("", False))[0]
    return Field(
        name=statement.target.id,
        default=None if statement.value is None else _default(statement.value),
        expects=_expects(statement.annotation),
        comment=" ".join(filter(None, [*above, beside])),
    )


def _expects(hint: ast.expr) -> str:
    """Returns what a flag takes for a type hint."""
    if isinstance(hint, ast.BinOp):
        return "|".join(_expects(side) for side in (hint.left, hint.right))
    if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) == "Literal":
        return "|".join(_shown(value) for value in ast.literal_eval(ast.Tuple([hint.slice], ast.Load()))[0])
    if isinstance(hint, ast.Subscript):
        items = [item for item in getattr(hint.slice, "elts", [hint.slice]) if ast.unparse(item) != "..."]
        return ",".join(map(_expects, items)) + (",..." if "..." in ast.unparse(hint) else "")
    text = ast.unparse(hint)
    return _TYPES.get(text, text)


def _default(node: ast.expr) -> str:
    """Returns the text of a default as a flag takes it; its source where it is no expression of constants."""
    try:
        return _shown(eval(compile(ast.Expression(node), "default", "eval"), {"__builtins__": {}}))
    except NameError:
        return ast.unparse(node)


def _shown(value: Any) -> str:
    """Returns the text of a value as a flag takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) or "()"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nested(file: pathlib.Path, hint: ast.expr) -> Mapping[str | None, _Place]:
    """Returns the dataclasses that a field may hold, by kind (None: the only one); none for a plain value."""
    for node in ast.walk(hint):
        if not isinstance(node, ast.Name) or (place := _find(file, node.id)) is None:
            continue
        file, found = place
        if isinstance(found, ast.ClassDef):
            return {None: place}
        if isinstance(found, ast.Assign):  # Annotated[Any, OneOf(TABLE, default=KIND)]
            call = next(inner for inner in ast.walk(found.value) if isinstance(inner, ast.Call))
            return _kinds(*_find(file, call.args[0].id))
    return {}


def _kinds(file: pathlib.Path, table: ast.stmt) -> dict[str | None, _Place]:
    """Returns the configuration class of each kind in a table of classes with a field `config`."""
    kinds = {}
    for key, value in zip(table.value.keys, table.value.values, strict=True):
        where, cls = _find(file, ast.unparse(value))
        hint = next(s.annotation for s in cls.body if isinstance(s, ast.AnnAssign) and s.target.id == "config")
        kinds[key.value] = _find(where, ast.unparse(hint))
    return kinds


def _find(file: pathlib.Path, name: str) -> _Place | None:
    """Returns the class or assignment that a name stands for in a module of the package; None for anything else."""
    first, _, rest = name.partition(".")
    for statement in _tree(file).body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return file, statement
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if name in map(ast.unparse, targets):
                return file, statement
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) != first:
                    continue
                if rest:
                    return _find(_module_path(f"{statement.module}.{alias.name}"), rest)
                source = _module_path(statement.module)
                return None if source is None else _find(source, alias.name)
    return None


def _module_path(module: str) -> pathlib.Path | None:
    """Returns the file of a module of the package; None for a module of another one."""
    base = _ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@functools.cache
def _tree(file: pathlib.Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def _comments(file: pathlib.Path) -> dict[int, tuple[str, bool]]:
    """Returns the comment of each line that has one, and whether the line has nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
    found = (token for token in tokens if token.type == tokenize.COMMENT)
    return {t.start[0]: (t.string.lstrip("#: "), not t.line[: t.start[1]].strip()) for t in found}
