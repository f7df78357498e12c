"""Zip files from outside, read member by member within limits of size; nothing is written to disk."""

import collections
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

from epfv2_jax.core import checks, files

#: Largest ratio of declared to stored size of a member. Metadata of the sample clip has about 3: our choice.
MAX_RATIO = 100
#: Most members in a zip: our choice, about 100 000 frames.
MAX_MEMBERS = 500_000

# What `zipfile` raises on a damaged file.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError)


class Zip:
    """Reads the members of a zip by name, within limits of size.

    Raises:
      ValueError: the file is missing or not a zip, or holds a member whose name points outside its folder, a name
        twice, or too many members.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        files.check_file(path, "download the sequence again")
        with checks.naming(f"{path}: not a readable zip", _ZIP_ERRORS, "download it again"):
            self._zip = zipfile.ZipFile(path)
        try:
            infos = self._zip.infolist()
            checks.within(0, MAX_MEMBERS, **{f"{path}: number of members": len(infos)})
            for info in infos:
                parts = info.filename.replace("\\", "/").split("/")
                if ".." in parts or parts[0] == "" or ":" in parts[0]:
                    raise ValueError(
                        f"{path}: member {info.filename!r} points outside its folder; the zip is not one of the "
                        "release, download it again"
                    )
            # Some programs for Windows write backslashes, against the standard.
            names = [info.filename.replace("\\", "/") for info in infos]
            self._infos = dict(zip(names, infos, strict=True))
            if len(self._infos) != len(infos):
                name, count = collections.Counter(names).most_common(1)[0]
                raise ValueError(f"{path}: member {name!r} is there {count} times; download the zip again")
        except ValueError:
            self._zip.close()
            raise

    @property
    def names(self) -> Sequence[str]:
        """Names of the members."""
        return tuple(self._infos)

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()

    def read(self, name: str, max_bytes: int) -> bytes:
        """Returns the content of a member of at most `max_bytes`; sizes are checked before anything is inflated."""
        where = f"{self.path}:{name}"
        info = self._infos.get(name)
        if info is None:
            raise ValueError(f"{where}: member is missing")
        stored_bytes = max(info.compress_size, 1)
        checks.within(0, max_bytes, **{f"{where}: declared bytes": info.file_size})
        checks.within(0, MAX_RATIO, **{f"{where}: declared bytes a stored byte": info.file_size / stored_bytes})
        checks.one_of((False,), **{f"{where}: encrypted": bool(info.flag_bits & 1)})
        checks.one_of((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), **{f"{where}: compression": info.compress_type})
        with checks.naming(f"{where}: damaged member", _ZIP_ERRORS, "download the zip again"):
            return self._zip.read(info)  # zipfile stops at the declared size and compares the checksum
