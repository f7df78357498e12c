"""Makes pages of the site from README (its start), CONTRIBUTING and CHANGELOG, and puts the notebook beside them.

On the site they lie among the pages of docs/, so their links and those to them lose the folder.
"""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
_NOTEBOOK = "examples/quickstart.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the texts."""
    top = pathlib.Path(config.config_file_path).parent
    for source, page in _PAGES.items():
        text = (top / source).read_text(encoding="utf-8").replace("](docs/", "](").replace("[docs/", "[")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, _NOTEBOOK, abs_src_path=str(top / _NOTEBOOK)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Returns a page with its links to those texts as they are on the site."""
    return re.sub(
        r"\]\(\.\./(README|CONTRIBUTING|CHANGELOG)\.md", lambda link: f"]({_PAGES[link[1] + '.md']}", markdown
    )
