"""Label rows as Parquet files, for tools outside this package. Needs pyarrow."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from epfv2_jax.core import files
from epfv2_jax.data.labels.rows import ROW_ARRAYS, LabelRun, Status


def export_parquet(path: str | os.PathLike, runs: Iterable[LabelRun]) -> int:
    """Writes runs as a Parquet file, one row for each frame, columns by name; returns the number of rows.

    Arrays are lists of fixed size in row-major order. The hashes of plan and teacher are in the schema's metadata.
    """
    import pyarrow.parquet

    rows, writer = 0, None
    with files.publishing(path) as own:
        try:
            for run in runs:
                table = _table(run)
                if writer is None:
                    hashes = {"plan_sha256": run.plan_sha256, "teacher_sha256": run.teacher_sha256}
                    writer = pyarrow.parquet.ParquetWriter(own, table.schema.with_metadata(hashes))
                writer.write_table(table)
                rows += run.num_frames
        finally:
            if writer is not None:
                writer.close()
    return rows


def _table(run: LabelRun) -> Any:
    """Returns the rows of a run as a pyarrow.Table."""
    import pyarrow

    n = run.num_frames

    def column(values: np.ndarray | None) -> Any:
        if values is None:
            return pyarrow.nulls(n)
        flat = values.reshape(n, -1)
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.ravel()), flat.shape[1])

    return pyarrow.table(
        {
            "record": pyarrow.array(np.full(n, run.record, np.int64)),
            "sequence": pyarrow.array([run.sequence] * n, pyarrow.string()),
            "split": pyarrow.array([run.split] * n, pyarrow.string()),
            "frame_index": pyarrow.array(run.frame_index),
            "status": pyarrow.array([Status(s).name.lower() for s in run.status], pyarrow.string()),
            **{name: column(getattr(run, name)) for name in ROW_ARRAYS},
        }
    )
