"""One HTML page that stands alone: its style, its pictures as parts of it, and the words and colours of the reports."""

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from etils import epath
from PIL import Image

from epfv2_jax.core import files

INK, MUTED = "#1d2329", "#6b7480"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; background: #fff; max-width: 1180px; margin: 32px auto;
  padding: 0 20px; }
h1 { font-size: 26px; margin-bottom: 4px; } h2 { font-size: 19px; margin-top: 36px; } p { color: #4a535e; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px; text-align: right; border-bottom: 1px solid #e3e6ea; }
th:first-child, td:first-child { text-align: left; } th { color: #6b7480; font-weight: 600; }
img { width: 100%; border: 1px solid #e3e6ea; border-radius: 6px; margin: 8px 0; } .half { max-width: 520px; }
.bar { display: inline-block; height: 9px; border-radius: 2px; vertical-align: middle; } .left { text-align: left; }
"""


def write(path: epath.Path, title: str, sections: Iterable[str]) -> epath.Path:
    """Returns `path` after writing the page there. The sections are HTML; empty ones are left out."""
    body = "\n".join(section for section in sections if section)
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    files.write_atomic(path, text.encode())
    return path


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns the HTML of a table of texts."""
    lines = [("th", head), *(("td", row) for row in rows)]
    cells = ("".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in line) for tag, line in lines)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def write_png(figure, path: epath.Path) -> Image.Image:
    """Returns the picture of a figure, after writing it as a PNG."""
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    files.write_atomic(path, buffer.getvalue())
    return picture


def embed(picture: Image.Image, alt: str, css: str = "") -> str:
    """Returns the HTML of a picture that the page holds itself; `css` is a class of its style."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="{css}" alt="{html.escape(alt)}" src="data:image/jpeg;base64,{data}">'


def joint_label(name: str) -> str:
    """Returns the words of a joint's name: "left wrist" for b_l_wrist."""
    sides = {"l": "left", "r": "right"}
    words = name.removeprefix("b_").split("_")
    return " ".join([sides[words[0]], *words[1:]] if words[0] in sides else words)
