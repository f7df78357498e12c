"""Models from the hub, by huggingface_hub itself, from a server on this machine that answers as the hub does."""

import hashlib
import http.server
import json
import threading

import numpy as np
import pytest

from epfv2_jax import checkpoints
from epfv2_jax.checkpoints import Card, hub
from epfv2_jax.core import checks

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the files of one model, `files` by commit, as the hub does; knows no other model and no other revision."""

    files: dict[str, dict[str, bytes]]
    asked: list[str]

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        api, of_file, tree = "/api/models/org/name/revision/", "/org/name/resolve/", "/api/models/org/name/tree/"
        if path.startswith(api) and path.removeprefix(api) in COMMITS:
            commit = COMMITS[path.removeprefix(api)]
            siblings = [{"rfilename": name} for name in self.files[commit]]
            self.send(200, json.dumps({"id": "org/name", "sha": commit, "siblings": siblings}).encode(), with_body)
        elif path.startswith(tree):
            found = self.files[path.removeprefix(tree)].items()
            listed = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in found]
            self.send(200, json.dumps(listed).encode(), with_body)
        elif path.startswith(of_file):
            commit, _, name = path.removeprefix(of_file).partition("/")
            data = self.files[commit][name]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.send(200, data, with_body, {"X-Repo-Commit": commit, "ETag": etag})
        else:
            code = "RevisionNotFound" if path.startswith(api) else "RepoNotFound"
            self.send(404, b"{}", with_body, {"X-Error-Code": code, "X-Error-Message": "not here"})

    def send(self, status: int, data: bytes, with_body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, *_):
        """Stays silent."""


@pytest.fixture
def server(monkeypatch, tmp_path, packaged):
    """A hub with two revisions of one model, of which the older has another licence."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra 'hub'")
    contents = {}
    for revision, licence in (("main", "new"), ("v1", "old")):
        folder = packaged(tmp_path / revision, Card(licence=licence))
        contents[COMMITS[revision]] = {path.name: path.read_bytes() for path in folder.iterdir()}
        contents[COMMITS[revision]]["training.log"] = b"large"
    Hub.files, Hub.asked = contents, []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.extras
def test_a_model_comes_from_the_hub_by_name_and_revision(server, trained):
    found = checkpoints.load("hf://org/name")
    np.testing.assert_equal(found.variables, trained.variables)
    assert found.card.licence == "new"
    assert checkpoints.load("hf://org/name@v1").card.licence == "old"
    assert not any("training.log" in path for path in Hub.asked), "only what is needed is fetched"


@pytest.mark.extras
def test_what_was_fetched_once_is_there_without_the_hub(server):
    folder = hub.fetch("hf://org/name@v1")
    server.shutdown()
    server.server_close()
    assert hub.fetch("hf://org/name@v1") == folder
    with pytest.raises(ValueError, match=r"hf://org/name: cannot be fetched \(LocalEntryNotFoundError: "):
        hub.fetch("hf://org/name")


@pytest.mark.extras
@pytest.mark.parametrize(
    "name, message", [("hf://org/none", "RepositoryNotFoundError"), ("hf://org/name@v2", "RevisionNotFoundError")]
)
def test_what_the_hub_does_not_have_is_one_line(server, name, message):
    with pytest.raises(ValueError, match=f"^{name}: cannot be fetched .{message}: ") as refused:
        checkpoints.load(name)
    assert "\n" not in str(refused.value)


@pytest.mark.extras
def test_a_model_that_changed_on_its_way_is_refused(server):
    commit = COMMITS["main"]
    data = Hub.files[commit]["model.safetensors"]
    Hub.files[commit]["model.safetensors"] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(ValueError, match=r"model\.safetensors: sha256: .*the file has changed since it was written"):
        checkpoints.load("hf://org/name")


@pytest.mark.parametrize("name", ["hf://org", "hf://", "hf://org/name/more", "hf://org/name@", "hf://org/na me"])
def test_what_names_no_model_is_told_how_to_write_it(name):
    with pytest.raises(ValueError, match="names no model on the hub; write hf://ORGANISATION/NAME"):
        checkpoints.load(name)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"hf://org/name needs the extra: pip install 'epfv2_jax\[hub\]'"):
        checkpoints.load("hf://org/name")


def test_nothing_is_written_to_a_model_on_the_hub():
    with pytest.raises(ValueError, match="hf://org/name: a packaged model, to which nothing is written; give --out"):
        checkpoints.run_directory("hf://org/name")
