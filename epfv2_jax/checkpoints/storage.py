"""The layout of steps on disk, and the seal that shows that one is whole.

Each step holds three items: `state` (the whole training state), `model` (the variables that inference needs, averaged
if training keeps an average) and `meta` (JSON). A step counts once it has a seal: `checksums.json` with the CRC-32 of
its files (against damage; nothing here protects from intent). The seal is written before Orbax gives the step its final
name, so that it shows for each step by itself, whatever version of Orbax wrote it, that all is there and unchanged.

Orbax writes to disks and to gs:// by itself. It does not know s3://: there a step is written to this machine's disk and
uploaded in the background, its seal last.
"""

import contextlib
import dataclasses
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from epfv2_jax.core import checks, files, multihost, stores
from epfv2_jax.core import config as config_lib

LATEST = "latest"
BEST = "best"
DAMAGED = "damaged"
ITEMS = ("state", "model", "meta")
SEAL = "checksums.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checksum:
    """A file of a step: its path below the step's folder, with forward slashes, and its CRC-32."""

    path: str
    crc32: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seal:
    """The content of `checksums.json`."""

    files: tuple[Checksum, ...]


class Steps:
    """The steps in one directory, of which the newest `keep` stay.

    Saving is asynchronous. All processes of a run call the methods at the same time.
    """

    def __init__(self, directory: epath.Path, keep: int):
        self.directory, self._keep, self._saving, self._failed = directory, keep, None, False
        self._staging = None if _orbax_knows(directory) else _open_staging(directory)
        written_to = directory if self._staging is None else files.resolve(self._staging.name)
        logging.getLogger("absl").setLevel(logging.WARNING)
        logging.getLogger("absl").addFilter(_is_no_repeated_error)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep if self._staging is None else 1,
            create=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal_items),
        )
        self._written_to = written_to
        self._manager = ocp.CheckpointManager(written_to, options=options, item_names=ITEMS)

    def save(self, step: int, items: ocp.args.Composite) -> None:
        """Starts saving a step, after the one before is committed; errors as in `wait`."""
        self.wait()
        self._saving = step
        with self._failing_clearly():
            if files.is_remote(self.directory) and multihost.is_first():
                _remove_remote(self.directory / str(step))  # what a killed process left of it
            self._manager.save(step, args=items, force=True)

    def delete(self, step: int) -> None:
        """Removes a step."""
        if self._staging is None:
            self._manager.delete(step)
        else:
            _remove_remote(self.directory / str(step))

    def restore_state(self, step: int, abstract_state: Any) -> Any:
        """Returns the item `state` of a step, laid out as `abstract_state`."""
        if self._staging is not None:
            with files.local_copy(self.directory / str(step) / "state") as copy, ocp.StandardCheckpointer() as reader:
                return reader.restore(copy, abstract_state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._manager.restore(step, args=args)["state"]

    def wait(self) -> None:
        """Waits until all that was saved is committed.

        Raises:
          OSError: a step could not be written, for instance because the disk is full.
        """
        with self._failing_clearly():
            self._manager.wait_until_finished()
            if self._saving is not None and self._staging is None and multihost.is_first():
                folder = self.directory / str(self._saving)
                items = config_lib.read(Seal, folder / SEAL, "start the same command again").files
                seal(folder, sorted(p.name for p in folder.iterdir() if p.name not in (SEAL, *ITEMS)), items)
        self._saving = None

    def close(self) -> None:
        """Waits as `wait` does and releases the manager."""
        if not self._failed:  # else told so
            self.wait()
            self._manager.close()
        if self._staging is not None:
            self._staging.cleanup()

    @contextlib.contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of Orbax, TensorStore or the file system
            self._failed = True
            text = str(error)
            reason = "no space left on the device" if "No space left" in text else text.partition("\n")[0][:300]
            raise OSError(
                f"{self.directory / str(self._saving)}: the checkpoint cannot be written: {reason}. The steps before "
                "it are whole; mend the cause and start the same command again"
            ) from error

    def _seal_items(self) -> None:
        # Orbax calls this when it has written all files of a step and before it gives the step its final name; only its
        # own two small files beside the items still change.
        if multihost.is_first():
            unfinished = re.compile(rf"{self._saving}(\.orbax-checkpoint-tmp.*)?")
            (folder,) = (path for path in self._written_to.iterdir() if unfinished.fullmatch(path.name))
            seal(folder, ITEMS)
            if self._staging is not None:
                self._upload(folder)

    def _upload(self, folder: epath.Path) -> None:
        """Copies a sealed step to the store, and removes there what is older than the newest `keep`."""
        target = self.directory / str(self._saving)
        for name in (*(name for name in ITEMS if (folder / name).exists()), SEAL):
            stores.upload(folder / name, target / name)
        for step in sealed_steps(self.directory)[self._keep :]:
            _remove_remote(self.directory / str(step))


def _is_no_repeated_error(record: logging.LogRecord) -> bool:
    """Returns False for errors of Orbax's threads, which it logs with their stacks and then raises as well."""
    return record.levelno < logging.ERROR or f"{os.sep}orbax{os.sep}" not in record.pathname


def _orbax_knows(directory: epath.Path) -> bool:
    return not os.fspath(directory).startswith("s3://")


def _open_staging(directory: epath.Path) -> tempfile.TemporaryDirectory:
    """Returns a folder on disk for steps on their way to `directory`.

    Raises:
      ValueError: this is one of several processes: each has a part of a step only.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"{directory}: a run of several processes cannot save to s3://; give it an output_dir on gs:// or on a "
            "disk that all machines mount"
        )
    return tempfile.TemporaryDirectory(prefix="epfv2_checkpoint_")


def _remove_remote(step: epath.Path) -> None:
    """Removes a step from a store, its seal first: what is left of it does not count."""
    stores.remove(step / SEAL)
    stores.remove(step)


def seal(folder: epath.Path, names: Iterable[str], known: Iterable[Checksum] = ()) -> None:
    """Writes the checksums of the files and folders `names` of a step, beside those that are known."""
    found = (Checksum(path=path, crc32=crc32) for path, crc32 in _checksums(folder, names).items())
    config_lib.write(folder / SEAL, Seal(files=(*known, *found)))


def verify(folder: epath.Path, names: tuple[str, ...] = ()) -> None:
    """Raises ValueError unless the sealed files of a step are as they were written; `names`: only of these items."""
    path = folder / SEAL
    if not path.exists():
        raise ValueError(f"{SEAL} is missing: the step was not written completely")
    stored = config_lib.read(Seal, path, "the step is damaged")
    expected = {c.path: c.crc32 for c in stored.files if not names or c.path.partition("/")[0] in names}
    checks.not_empty(f"{SEAL}: files", expected, "the step was not written completely")
    found = _checksums(folder, {path.partition("/")[0] for path in expected})
    for path, crc32 in expected.items():
        if path not in found:
            raise ValueError(f"{path} is missing")
        checks.equal(f"{path}: CRC-32", found[path], crc32, "the file has changed since it was written")


def sealed_steps(directory: epath.Path) -> list[int]:
    """Returns the steps in `directory` that were written completely, newest first."""
    return sorted((step for step in all_steps(directory) if (directory / str(step) / SEAL).exists()), reverse=True)


def all_steps(directory: epath.Path) -> list[int]:
    """Returns the steps in `directory`, whole or not, newest first."""
    steps = (int(p.name) for p in directory.iterdir() if re.fullmatch("[0-9]+", p.name)) if directory.exists() else ()
    return sorted(steps, reverse=True)


def read_meta(folder: epath.Path) -> dict[str, Any]:
    """Returns the item `meta` of the step in `folder`."""
    with _readable(folder / "meta") as path:
        return ocp.JsonCheckpointHandler().restore(path)


def read_item(path: str | os.PathLike) -> Any:
    """Returns one item of a step (`.../STEP/model` or `.../STEP/state`) as a tree of numpy arrays."""
    # Not by a checkpointer: some versions of Orbax mark only the step as complete, and refuse its items in a bucket.
    handler = ocp.StandardCheckpointHandler()
    with _readable(files.resolve(path)) as path, contextlib.closing(handler):
        saved = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), handler.metadata(path).tree)
        return handler.restore(path, args=ocp.args.StandardRestore(saved))


@contextlib.contextmanager
def _readable(path: epath.Path) -> Iterator[epath.Path]:
    """Gives an item where Orbax can read it."""
    if _orbax_knows(path):
        yield path
        return
    with files.local_copy(path) as copy:
        yield files.resolve(copy)


def _checksums(folder: epath.Path, names: Iterable[str]) -> dict[str, int]:
    """Returns path below `folder` -> CRC-32 of all files in its files and folders `names`."""

    def walk(path: epath.Path, name: str) -> Iterator[tuple[str, epath.Path]]:
        if path.is_dir():
            for inner in path.iterdir():
                yield from walk(inner, f"{name}/{inner.name}")
        elif path.exists():
            yield name, path

    found = dict(sorted(pair for name in names for pair in walk(folder / name, name)))
    with futures.ThreadPoolExecutor() as threads:  # zlib releases Python's lock
        return dict(zip(found, threads.map(files.crc32, found.values()), strict=True))
