"""How a command ends: the exit codes, the exceptions that choose among them, and the one place that maps the two."""

import contextlib
import sys
from collections.abc import Iterator

DONE = 0
ERROR = 1
#: Wrong usage: a flag, a recipe or a value in it. Nothing was started.
USAGE = 2
#: Done, but not for all: rows or sequences were quarantined, or a step does not fit.
PARTIAL = 3
#: The run was told to stop and saved its state: start the same command again (EX_TEMPFAIL).
PREEMPTED = 75
#: Ctrl-C: stopped at once.
INTERRUPTED = 130

#: The extra that installs an optional library.
EXTRAS = {
    "gcsfs": "gcs",
    "huggingface_hub": "hub",
    "imageio_ffmpeg": "video",
    "jax2onnx": "export",
    "libtpu": "tpu",
    "onnx": "export",
    "onnxruntime": "export",
    "pyarrow": "parquet",
    "ray": "ray",
    "rerun": "viz",
    "s3fs": "s3",
    "tensorboardX": "tensorboard",
}


class UsageError(ValueError):
    """The command line, or the recipe that it names, is wrong."""


class Preempted(Exception):  # noqa: N818 (a notice, not an error)
    """The run was told to stop, saved its state and stopped."""


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Turns a ValueError of the block, which only reads flags and recipes, into a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns foreseen exceptions of the block into one line and a SystemExit with the exit code.

    Foreseen are ValueError, OSError, FloatingPointError (training diverged), the ImportError of an extra, Preempted and
    KeyboardInterrupt.
    All others are bugs and keep their traceback.
    """
    try:
        yield
    except Preempted as notice:
        print(notice, flush=True)
        raise SystemExit(PREEMPTED) from notice
    except KeyboardInterrupt as error:
        _end(INTERRUPTED, "interrupted; what is published stays, and the same command goes on from there", error)
    except UsageError as error:
        _end(USAGE, str(error), error)
    except (ValueError, OSError, FloatingPointError) as error:
        _end(ERROR, str(error), error)
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        _end(ERROR, f"{error}; it comes with the extra: pip install 'epfv2_jax[{EXTRAS[library]}]'", error)


def _end(code: int, message: str, error: BaseException) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code) from error
