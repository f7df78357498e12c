"""Files appear whole or not at all, whoever is interrupted; what cannot be read names its file."""

import errno
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import zlib

import pytest

from epfv2_jax.core import files


def left_beside(folder):
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), files.publishing(path) as own:
        own.write_bytes(b"half of the n")
        raise OSError("full")
    assert path.read_bytes() == b"old" and left_beside(tmp_path) == ["a.bin"]


def test_the_old_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with files.publishing(path) as own:
        own.write_bytes(b"new")
        assert path.read_bytes() == b"old" and own.name == path.name  # writers may look at the suffix
    assert path.read_bytes() == b"new" and left_beside(tmp_path) == ["a.bin"]


def test_a_folder_is_published_whole(tmp_path):
    with files.publishing(tmp_path / "folder") as own:
        own.mkdir()
        (own / "a").write_text("1")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "a").read_text() == "1" and left_beside(tmp_path) == ["folder"]


def test_writers_at_once_leave_one_whole_file(tmp_path):
    path, size = tmp_path / "a.bin", 1 << 16
    start = threading.Barrier(8)

    def write(n):
        start.wait()
        for _ in range(20):
            files.write_atomic(path, bytes([n]) * size)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            found = path.read_bytes()
            assert len(found) == size and len(set(found)) == 1
    for thread in threads:
        thread.join()
    assert left_beside(tmp_path) == ["a.bin"]


def test_json_comes_back_and_is_strict(tmp_path):
    path = tmp_path / "a.json"
    value = {"name": "é", "numbers": [1, 2.5, None], "nested": {"b": True}}
    files.write_json(path, value)
    assert files.read_json(path) == value and path.read_bytes().endswith(b"}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"x": float("nan")})
    assert files.read_json(path) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1', r"not valid JSON: .*line 1"),
        (b"\xff\xfe\xfa", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON: NaN is no JSON number"),
        (b"[-Infinity]", "not valid JSON: -Infinity is no JSON number"),
        (b"9" * 5000, "not valid JSON: .*digits"),
    ],
)
def test_json_that_cannot_be_read_names_its_file(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path}: {message}"):
        files.read_json(path)


def test_json_that_is_absent_or_too_large_names_its_file(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path / 'no.json'}: no such file"):
        files.read_json(tmp_path / "no.json")
    path = tmp_path / "large.json"
    path.write_text(json.dumps(list(range(100))))
    with pytest.raises(ValueError, match=rf"{path}: {path.stat().st_size} bytes, at most 50 are read"):
        files.read_json(path, max_bytes=50)


def test_lines_that_cannot_be_read_are_left_out_with_a_warning(tmp_path, caplog):
    def even(content):
        if content["n"] % 2:
            raise ValueError("odd")
        return content["n"]

    path = tmp_path / "log.jsonl"
    assert list(files.read_json_lines(path, even)) == []
    path.write_bytes(b'{"n": 2}\n{"n": 3}\n\xff{"n": 4}\n{"n": 6, "x": NaN}\n{"n": 8')
    assert list(files.read_json_lines(path, even)) == [(b'{"n": 2}', 2), (b'{"n": 6, "x": NaN}', 6)]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [str(path)] * 3
    for line, message in ((2, "odd"), (3, "not valid JSON"), (5, "not valid JSON")):
        assert f"{path}: line {line} is left out: " in caplog.text and message in caplog.text


def test_hash_is_that_of_the_bytes(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_object_stores_are_known_by_their_scheme(tmp_path):
    assert files.is_remote("gs://bucket/a") and files.is_remote("s3://bucket/a")
    assert not files.is_remote(tmp_path) and not files.is_remote("runs/a:b")


HOLD = """
import sys, time
from epfv2_jax.core import files
with files.owning(sys.argv[1], "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_belongs_to_one_process_until_that_dies(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        held = rf"{tmp_path}: process {holder.pid} on \S+ writes here; wait for it"
        with pytest.raises(ValueError, match=held), files.owning(tmp_path, "wait for it"):
            raise AssertionError("two processes hold one directory")
        holder.kill()  # it leaves .lock behind, which then holds nothing
    with files.owning(tmp_path, "wait for it"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "lockf", no_locks)
    with files.owning(tmp_path, "wait"):
        assert f"{tmp_path}: this file system has no locks" in caplog.text


def test_characters_of_a_pattern_are_plain_in_a_folder(tmp_path):
    folder = files.resolve(tmp_path / "run [v2]*")
    folder.mkdir()
    (folder / "a.txt").touch()
    assert [path.name for path in folder.glob("*.txt")] == ["a.txt"]
    assert [path.name for path in (folder / "..").glob("run*")] == ["run [v2]*"]


def test_the_checksum_of_a_file_finds_any_flipped_bit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(data := bytes(range(256)) * 10_000)
    whole = files.crc32(path)
    assert whole == zlib.crc32(data)
    for place in (0, 1 << 20, len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert files.crc32(path) != whole


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("az://b/run", r"az://b/run: kind of store: 'az' is not one of 'gs', 's3'"),
        ("gs://", r"gs://: names no bucket; write gs://BUCKET/FOLDER"),
        ("gs://b/run", r"gs://b/run needs the extra: pip install 'epfv2_jax\[gcs\]'"),
        ("s3://b/run", r"s3://b/run needs the extra: pip install 'epfv2_jax\[s3\]'"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_by_name(monkeypatch, path, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for use in (files.locate, files.resolve, files.sizes, lambda p: files.write_json(p, {}), files.sha256):
        with pytest.raises(ValueError, match=message):
            use(path)


def test_what_needs_a_disk_says_so():
    with pytest.raises(ValueError, match="gs://b/x: this must be on a disk; copy it there"):
        files.on_disk("gs://b/x", "copy it there")
    assert files.on_disk("a/b", "") == pathlib.Path("a/b")


def test_sizes_come_from_one_listing(tmp_path):
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert files.sizes(tmp_path) == {"a": 2, "link": 2} and files.sizes(tmp_path / "none") == {}


def test_a_moved_folder_takes_the_place_of_another(tmp_path):
    for name in ("new", "old/place"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / name[:3]).write_bytes(b"")
    files.move_folder(tmp_path / "new", tmp_path / "old" / "place")
    assert left_beside(tmp_path / "old" / "place") == ["new"] and not (tmp_path / "new").exists()
    files.move_folder(tmp_path / "old", tmp_path / "another" / "old")
    assert left_beside(tmp_path / "another") == ["old"]


def test_files_of_an_owner_without_a_name_are_read(tmp_path):
    """As in a container that runs as any number: no name belongs to it."""
    files.write_json(tmp_path / "a.json", {"a": 1})
    code = "import sys; from epfv2_jax.core import files; print(files.read_json(sys.argv[1]))"
    unnamed = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if subprocess.run([*unnamed, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no user namespaces (unshare)")
    command = [*unnamed, sys.executable, "-c", code, str(tmp_path / "a.json")]
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "{'a': 1}\n", done.stderr
