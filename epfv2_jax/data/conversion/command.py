"""A conversion with a progress bar, and what the command prints of it."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

from epfv2_jax.core import bars, tasks
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion.config import ConversionConfig


@contextlib.contextmanager
def progress_bar() -> Iterator[conversion.Progress]:
    """Gives a `progress` for `conversion.convert` that shows a bar and names the sequences that are left out."""
    with bars.bar(desc="convert", unit="sequence") as bar:

        def progress(done: int, total: int, report: conversion.SequenceReport) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if report.quarantined is not None:
                bar.write(f"{report.split}/{report.sequence} left out: {report.quarantined}")

        yield progress


def convert(
    source: str | os.PathLike, out: str | os.PathLike, config: ConversionConfig, engine: tasks.Engine
) -> tuple[str, bool]:
    """Converts, and returns what to print and whether a sequence is left out.

    Raises:
      ValueError: as `conversion.convert`.
    """
    with progress_bar() as progress:
        summary = conversion.convert(source, out, config, engine=engine, progress=progress)
    if summary is None:
        return "This share is done. Sequences of other shares are not; the last process writes the manifests.", False
    where = f"What was left out and why: 'report' in {pathlib.Path(out) / '<split>' / 'manifest.json'}"
    quarantined = any(split["sequences_quarantined"] for split in summary.values())
    return f"{json.dumps(summary, indent=1)}\n{where}", quarantined
