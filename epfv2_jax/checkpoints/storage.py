"""The layout of steps on disk, and the seal that shows that one is whole.

Each step holds three items: `state` (the whole training state), `model` (the variables that inference needs, averaged
if training keeps an average) and `meta` (JSON). A step counts once it has a seal: `checksums.json` with the CRC-32 of
its files (against damage; nothing here protects from intent). The seal is written before Orbax gives the step its final
name, so that it shows for each step by itself, whatever version of Orbax wrote it, that all is there and unchanged.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from epfv2_jax.core import checks, files, multihost
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
        self.directory, self._saving, self._failed = directory, None, False
        logging.getLogger("absl").setLevel(logging.WARNING)
        logging.getLogger("absl").addFilter(_is_no_repeated_error)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal_items),
        )
        self._manager = ocp.CheckpointManager(directory, options=options, item_names=ITEMS)

    def save(self, step: int, items: ocp.args.Composite) -> None:
        """Starts saving a step, after the one before is committed; errors as in `wait`."""
        self.wait()
        self._saving = step
        with self._failing_clearly():
            self._manager.save(step, args=items, force=True)

    def delete(self, step: int) -> None:
        """Removes a step."""
        self._manager.delete(step)

    def restore_state(self, step: int, abstract_state: Any) -> Any:
        """Returns the item `state` of a step, laid out as `abstract_state`."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._manager.restore(step, args=args)["state"]

    def wait(self) -> None:
        """Waits until all that was saved is committed.

        Raises:
          OSError: a step could not be written, for instance because the disk is full.
        """
        with self._failing_clearly():
            self._manager.wait_until_finished()
            if self._saving is not None and multihost.is_first():
                folder = self.directory / str(self._saving)
                seal(folder, sorted(p.name for p in folder.iterdir() if p.name != SEAL))
        self._saving = None

    def close(self) -> None:
        """Waits as `wait` does and releases the manager."""
        if self._failed:  # and told so
            return
        self.wait()
        self._manager.close()

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
            (folder,) = (path for path in self.directory.iterdir() if unfinished.fullmatch(path.name))
            seal(folder, ITEMS)


def _is_no_repeated_error(record: logging.LogRecord) -> bool:
    """Returns False for errors of Orbax's threads, which it logs with their stacks and then raises as well."""
    return record.levelno < logging.ERROR or f"{os.sep}orbax{os.sep}" not in record.pathname


def seal(folder: epath.Path, names: Iterable[str]) -> None:
    """Writes the checksums of the files and folders `names` of a step."""
    found = [Checksum(path=path, crc32=crc32) for path, crc32 in _checksums(folder, names).items()]
    config_lib.write(folder / SEAL, Seal(files=tuple(found)))


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
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(folder / "meta")


def read_item(path: str | pathlib.Path) -> Any:
    """Returns one item of a step (`.../STEP/model` or `.../STEP/state`) as a tree of numpy arrays.

    All processes of a run must call this at the same time.
    """
    path = files.resolve(path)
    # The checkpointer's own `metadata` would warn that an item is not a complete checkpoint.
    saved = ocp.StandardCheckpointHandler().metadata(path).tree
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(path, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved))


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
