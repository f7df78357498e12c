"""Keeps compiled programs between runs, in a directory that only this user can write to.

Anyone who can write to the cache can run code in the processes that read it, so it must not be shared.
"""

import logging
import os
import pathlib
import stat

import jax

_log = logging.getLogger(__name__)


def enable(directory: str | os.PathLike | None = None) -> pathlib.Path | None:
    """Turns on JAX's compilation cache and returns its directory, or None if there is no safe one.

    The default is JAX_COMPILATION_CACHE_DIR if it is set, else `epfv2_jax/compiled` under XDG_CACHE_HOME or ~/.cache. A
    directory that belongs to another user, or that others can write to, is refused with a warning.
    """
    if directory is None:
        if "JAX_COMPILATION_CACHE_DIR" in os.environ:
            return pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if base.startswith("~"):
            _log.warning("compiled programs are not kept: this user has no home; set XDG_CACHE_HOME to keep them")
            return None
        directory = pathlib.Path(base) / "epfv2_jax" / "compiled"
    directory = pathlib.Path(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        _log.warning("compiled programs are not kept: %s", error)
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        _log.warning(
            "compiled programs are not kept: %s must be a directory of yours that no one else can write to (chmod 700)",
            directory,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    return directory
