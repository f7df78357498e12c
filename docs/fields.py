"""Gives the fields of classes, in the API pages, the comment beside or above them as their description."""

import re

import griffe

_COMMENT = re.compile(r"^\s*#(?!:) ?(.*)$")


class FieldComments(griffe.Extension):
    """An extension of Griffe, which reads the sources for mkdocstrings."""

    def on_attribute(self, *, attr: griffe.Attribute, **_) -> None:
        """Sets the docstring of an attribute of a class that has none."""
        if attr.docstring is None and attr.parent.is_class and (text := _comment(attr)):
            attr.docstring = griffe.Docstring(text, lineno=attr.lineno, parent=attr)


def _comment(attr: griffe.Attribute) -> str:
    """The comment lines above a field, then what follows it on its last line."""
    lines = attr.lines_collection[attr.filepath]
    above, number = [], attr.lineno - 2
    while found := _COMMENT.match(lines[number]):
        above.insert(0, found[1])
        number -= 1
    _, mark, beside = lines[attr.endlineno - 1].partition("  # ")
    return " ".join([*above, beside] if mark else above).strip()
