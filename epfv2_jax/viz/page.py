"""One HTML page that stands alone: its style, its pictures as parts of it, and the words and colours of the reports.

It asks for no other file, so it can be copied anywhere and opened without a network.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from PIL import Image

from epfv2_jax.core import files
from epfv2_jax.viz import plots, poses

INK, MUTED = "#1d2329", "#6b7480"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; background: #fff; max-width: 1180px; margin: 32px auto;
  padding: 0 20px; }
h1 { font-size: 26px; margin-bottom: 4px; } h2 { font-size: 19px; margin-top: 36px; } p { color: #4a535e; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px; text-align: right; border-bottom: 1px solid #e3e6ea; }
th:first-child, td:first-child { text-align: left; } th { color: #6b7480; font-weight: 600; }
td { white-space: nowrap; } .scroll { overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; } dt { color: #6b7480; } dd { margin: 0;
  overflow-wrap: anywhere; }
code, pre { font: 13px/1.45 ui-monospace, monospace; background: #f4f5f7; border-radius: 4px; padding: 1px 5px; }
pre { padding: 12px; overflow-x: auto; } summary { cursor: pointer; color: #4a535e; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.figures div { border: 1px solid #e3e6ea; border-radius: 6px; padding: 8px 16px; }
.figures b { display: block; font-size: 22px; } .figures span { color: #6b7480; font-size: 13px; }
img { width: 100%; height: auto; border: 1px solid #e3e6ea; border-radius: 6px; margin: 8px 0; box-sizing: border-box; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 14px; align-items: start; }
.half { max-width: 560px; }
.bar { display: inline-block; height: 9px; border-radius: 2px; vertical-align: middle; } .left { text-align: left; }
.pick input { position: absolute; opacity: 0; } .pick span { color: #6b7480; margin: 0 4px 0 14px; }
.pick span:first-of-type { margin-left: 0; }
.pick label { display: inline-block; border: 1px solid #cfd4da; border-radius: 5px; padding: 2px 9px; margin: 2px;
  cursor: pointer; font-variant-numeric: tabular-nums; }
.pick input:checked + label { background: #1d2329; border-color: #1d2329; color: #fff; }
.pick input:focus-visible + label { outline: 2px solid #4cc2ff; } .pick figure { display: none; margin: 6px 0; }
"""


def write(path: epath.Path, title: str, sections: Iterable[str]) -> epath.Path:
    """Returns `path` after writing the page there. The sections are HTML; empty ones are left out."""
    body = "\n".join(section for section in sections if section)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    files.write_atomic(path, text.encode())
    return path


def heading(title: str, about: Mapping[str, str]) -> str:
    """Returns the HTML of the title and of what is known of the page's subject; a value in `backquotes` is code."""

    def shown(value: str) -> str:
        code = len(value) > 2 and value[0] == value[-1] == "`"
        return f"<code>{html.escape(value[1:-1])}</code>" if code else html.escape(value)

    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{shown(value)}</dd>" for name, value in about.items() if value)
    return f"<h1>{html.escape(title)}</h1>{f'<dl>{rows}</dl>' if rows else ''}"


def key_figures(figures: Mapping[str, str]) -> str:
    """Returns the HTML of a few large numbers, each with what it is."""
    boxes = "".join(f"<div><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>" for k, v in figures.items())
    return f'<div class="figures">{boxes}</div>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns the HTML of a table of texts."""
    lines = [("th", head), *(("td", row) for row in rows)]
    cells = ("".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in line) for tag, line in lines)
    return f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in cells)}</table></div>'


def details(summary: str, text: str) -> str:
    """Returns the HTML of a text that is shown when its summary is clicked."""
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"


def row(*parts: str) -> str:
    """Returns the HTML of parts beside each other, where the window is wide enough."""
    return f'<div class="row">{"".join(parts)}</div>'


def picker(groups: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """Returns the HTML of buttons in named groups, of which one is chosen, and of what belongs to it.

    The arrow keys go through them. There is no script: a style for each button shows its part.

    Args:
      groups: by name, the (text of the button, HTML of its part).
    """
    buttons, parts, styles = [], [], []
    for name, members in groups.items():
        buttons.append(f"<span>{html.escape(name)}</span>")
        for text, part in members:
            n = len(parts) + 1
            checked = " checked" if n == 1 else ""
            buttons.append(f'<input type="radio" name="pick" id="p{n}"{checked}>')
            buttons.append(f'<label for="p{n}">{html.escape(text)}</label>')
            parts.append(f"<figure>{part}</figure>")
            styles.append(f"#p{n}:checked ~ figure:nth-of-type({n})")
    if not parts:
        return ""
    style = f"<style>{', '.join(styles)} {{ display: block; }}</style>"
    return f'{style}<div class="pick">{"".join(buttons)}{"".join(parts)}</div>'


def embed(picture: Image.Image, alt: str) -> str:
    """Returns the HTML of a picture that the page holds itself, as WebP."""
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=80, method=4)
    return _image("webp", buffer.getvalue(), alt)


def chart(figure: Any, alt: str, css: str = "") -> str:
    """Returns the HTML of a matplotlib figure of lines and texts, as SVG; `css` is a class of the page's style."""
    return _image("svg+xml", plots.to_svg(figure), alt, css)


def dots(prediction: str | None = "prediction", truth: str = "truth") -> str:
    """Returns the HTML of the legend of pictures of poses: what each of the two colours is; None: there is none."""
    named = ((poses.PREDICTION_COLOR, prediction), (poses.TRUTH_COLOR, truth))
    return " &nbsp; ".join(f'<span style="color:{color}">&#9679;</span> {words}' for color, words in named if words)


def joint_label(name: str) -> str:
    """Returns the words of a joint's name: "left wrist" for b_l_wrist."""
    sides = {"l": "left", "r": "right"}
    words = name.removeprefix("b_").split("_")
    return " ".join([sides[words[0]], *words[1:]] if words[0] in sides else words)


def _image(kind: str, data: bytes, alt: str, css: str = "") -> str:
    text = base64.b64encode(data).decode()
    return f'<img class="{css}" alt="{html.escape(alt)}" src="data:image/{kind};base64,{text}">'
