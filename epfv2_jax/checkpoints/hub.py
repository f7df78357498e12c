"""Packaged models on the Hugging Face Hub: hf://ORGANISATION/NAME[@REVISION]. Needs the extra `hub`."""

import os
import re

from epfv2_jax.checkpoints import packaged
from epfv2_jax.core import checks

_PREFIX = "hf://"


def is_on_hub(directory: str | os.PathLike) -> bool:
    """Returns whether a path names a model on the hub."""
    return os.fspath(directory).startswith(_PREFIX)


def fetch(directory: str | os.PathLike) -> str:
    """Returns the folder in the hub's cache on this machine that holds a model, after downloading what it lacks.

    huggingface_hub finds the cache, the token and the server by its own rules (HF_HOME, HF_TOKEN, HF_ENDPOINT,
    HF_HUB_OFFLINE).

    Args:
      directory: hf://ORGANISATION/NAME, then @ and a branch, tag or commit; without it, the newest of the main branch.

    Raises:
      ValueError: it is no such name, there is no such model or revision, or the hub cannot be reached.
    """
    text = os.fspath(directory)
    found = re.fullmatch(rf"{_PREFIX}([\w.-]+/[\w.-]+)(?:@(\S+))?", text)
    if found is None:
        raise ValueError(
            f"{text}: names no model on the hub; write hf://ORGANISATION/NAME or hf://ORGANISATION/NAME@REVISION"
        )
    checks.extra_installed("huggingface_hub", "hub", text)
    import huggingface_hub

    # OSError, ValueError: what its own errors are; the names of some have changed between its versions.
    try:
        return huggingface_hub.snapshot_download(found[1], revision=found[2], allow_patterns=list(packaged.FILES))
    except (OSError, ValueError) as error:
        reason = " ".join(line for line in str(error).splitlines() if line)[:300]
        raise ValueError(f"{text}: cannot be fetched ({type(error).__name__}: {reason})") from error
