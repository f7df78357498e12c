"""The documentation as a site: it needs no network, README is its start, and fields have their comments."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.extras


def test_fields_are_described_by_their_comments():
    griffe = pytest.importorskip("griffe", reason="needs the extra 'docs'")
    extensions = griffe.load_extensions(str(ROOT / "docs" / "fields.py"))
    module = griffe.load("epfv2_jax.models.epfv2.model", search_paths=[ROOT], extensions=extensions)
    fields = module["EPFv2Config"].members
    assert fields["window"].docstring.value == "frame times that temporal attention sees, the current one included"
    above = fields["local_contrast"].docstring.value
    assert above.startswith("Side of the window") and above.endswith("imported weights expect.")
    assert fields["kind"].docstring is None


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra 'docs'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.html")}
    assert len(pages) > 30
    for path, page in pages.items():
        assert not re.findall(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//', page), path
        assert not re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect)"[^>]* href="(?:https?:)?//', page), path
    start = pages[pathlib.Path("index.html")]
    assert 'href="own_data/"' in start and 'href="examples/quickstart.ipynb"' in start
    assert (tmp_path / "examples/quickstart.ipynb").is_file()
    assert not list(tmp_path.glob("*.py"))
