"""Files in object stores: whole, first wins, no line lost; what is wrong with a store is one clear line.

The stores are emulators on this machine.
"""

import concurrent.futures
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import emulators
import fsspec
import pytest

from epfv2_jax.core import copies, files, lines, stores

pytestmark = emulators.MARKS


@pytest.fixture
def folder(bucket, request):
    """A folder of its own in the bucket."""
    return f"{bucket}/{request.node.name.partition('[')[0]}"


def test_of_many_writers_the_first_wins(folder):
    path = f"{folder}/unit"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: stores.create(path, bytes([i]) * 1000), range(8)))
    assert sum(won) == 1
    assert files.locate(path).read_bytes() == bytes([won.index(True)]) * 1000


def test_what_another_process_writes_is_seen_at_once(folder):
    path = files.locate(folder)
    stores.write(path / "a", b"1")
    assert [p.name for p in path.iterdir()] == ["a"] and not (path / "b").exists()
    another = fsspec.filesystem(folder.partition("://")[0], skip_instance_cache=True)
    another.pipe_file(f"{folder}/b", b"2")
    assert sorted(p.name for p in path.iterdir()) == ["a", "b"] and (path / "b").exists()
    assert files.sizes(folder) == {"a": 1, "b": 1} and files.sizes(f"{folder}/none") == {}


def test_a_folder_goes_there_and_back_and_aside(folder, tmp_path):
    (tmp_path / "own" / "inner").mkdir(parents=True)
    (tmp_path / "own" / "inner" / "b").write_bytes(b"bb")
    (tmp_path / "own" / "a").write_bytes(b"a")
    stores.upload(tmp_path / "own", f"{folder}/x")
    files.move_folder(f"{folder}/x", f"{folder}/aside/y")
    stores.download(f"{folder}/aside/y", tmp_path / "back")
    assert (tmp_path / "back" / "a").read_bytes() == b"a" and (tmp_path / "back" / "inner" / "b").read_bytes() == b"bb"
    assert not files.locate(f"{folder}/x").exists()
    stores.remove(f"{folder}/aside/y")
    stores.remove(f"{folder}/aside/y")
    with pytest.raises(FileNotFoundError, match="aside/y"):
        stores.download(f"{folder}/aside/y", tmp_path / "none")


def test_a_block_that_fails_publishes_nothing(folder):
    with pytest.raises(OSError, match="full"), files.publishing(f"{folder}/a") as own:
        own.write_bytes(b"half")
        raise OSError("full")
    assert not files.locate(f"{folder}/a").exists()
    with files.publishing(f"{folder}/a") as own:
        own.write_bytes(b"whole")
    assert files.locate(f"{folder}/a").read_bytes() == b"whole"


def test_lines_appear_without_closing_and_go_on(folder):
    path = f"{folder}/log.jsonl"
    log = lines.Lines(path)
    for step in range(5):
        log.append({"step": step})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # as another process sees it, which may be killed now
        found = [content["step"] for _, content in files.read_json_lines(path, lambda c: c)]
        if found == list(range(5)):
            break
        time.sleep(0.05)
    assert found == list(range(5))
    log.append({"step": 5})
    log.close()
    log.close()
    stores.write(path, files.locate(path).read_bytes() + b'{"st')  # killed while writing, on a disk
    log = lines.Lines(path)
    log.append({"step": 6})
    log.close()
    assert [json.loads(x)["step"] for x in files.locate(path).read_text().splitlines() if x != '{"st'] == list(range(7))


def test_a_copy_is_fetched_once_checked_and_shared(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "folder", lambda: tmp_path)
    path, data = f"{folder}/shard.arrayrecord", os.urandom(3 << 20)
    stores.write(path, data)
    (tmp_path / "x").write_bytes(data)
    sha256 = files.sha256(tmp_path / "x")
    fetched = []
    download = stores.download
    monkeypatch.setattr(stores, "download", lambda *a: fetched.append(a) or download(*a))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: copies.checked(path, sha256, len(data), "convert"), range(16)))
    (copy,) = found
    assert copy.read_bytes() == data and copy.suffix == ".arrayrecord" and len(fetched) == 1
    with pytest.raises(ValueError, match=rf"{path}: sha256.*convert"):
        copies.checked(path, "0" * 64, len(data), "convert")
    assert not list(tmp_path.glob("0000*"))

    unit = f"{folder}/unit"
    stores.write(unit, b"old")
    assert copies.newest(unit).read_bytes() == b"old"
    stores.write(unit, b"new")
    assert copies.newest(unit).read_bytes() == b"new"


def test_copies_leave_a_tenth_of_the_disk_free(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(copies, "folder", lambda: tmp_path)
    for name in "abc":
        stores.write(f"{folder}/{name}", name.encode() * 100)
    kept = {name: copies.newest(f"{folder}/{name}") for name in "abc"}
    for age, name in enumerate("cba"):
        os.utime(kept[name], (1e9 - age, 1e9 - age))
    usage = type("Usage", (), {"total": 1000, "free": 150})
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda path: usage)
    stores.write(f"{folder}/d", b"d" * 100)  # 50 bytes are missing: the oldest goes
    copies.newest(f"{folder}/d")
    assert [name for name in "abc" if kept[name].exists()] == ["b", "c"]
    assert "opened longest ago" in caplog.text


def test_an_absent_bucket_is_named(bucket):
    with pytest.raises(OSError, match=rf"{bucket}2/run.*no bucket 'bucket2'; create it"):
        files.locate(f"{bucket}2/run")


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_store_that_refuses_is_one_line(scheme, monkeypatch):
    emulators.skip_where_absent(scheme)

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            xml = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            body = xml if scheme == "s3" else b'{"error": {"code": 403, "message": "no storage.objects.list"}}'
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = _in_process(scheme, emulators.environment(scheme, f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert f"{scheme}://bucket/a: permission denied" in found and "\n" not in found


def test_no_credentials_for_s3_is_one_line():
    emulators.skip_where_absent("s3")
    empty = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    found = _in_process("s3", {**empty, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert "s3://bucket/a: no credentials" in found and "AWS_PROFILE" in found and "\n" not in found


def _in_process(scheme, environment):
    """Returns the error of looking at a path in a process with these variables."""
    code = f"""
from epfv2_jax.core import files
try:
    files.locate("{scheme}://bucket/a")
except OSError as error:
    print(error)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STORAGE_", "GOOGLE_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, check=True, capture_output=True, text=True
    ).stdout.strip()
