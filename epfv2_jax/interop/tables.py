"""Motions as tables: Parquet files (needs pyarrow) and NPZ archives, a row for each frame."""

import json
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from epfv2_jax.core import files
from epfv2_jax.interop.motion import Motion


def write_parquet(path: str | os.PathLike, motion: Motion) -> None:
    """Writes a motion as a Parquet file, whole or not at all.

    Arrays are lists of fixed size in row-major order; field metadata `shape` says which. The schema's metadata are
    those of `About.metadata`, each as JSON.
    """
    import pyarrow
    import pyarrow.parquet

    fields = []
    for name, (dtype, shape) in motion.columns.items():
        kind = pyarrow.from_numpy_dtype(dtype)
        kind = pyarrow.list_(kind, int(np.prod(shape))) if shape else kind
        fields.append(pyarrow.field(name, kind, metadata={"shape": json.dumps(shape)}))
    about = {name: json.dumps(value) for name, value in motion.about.metadata().items()}
    schema = pyarrow.schema(fields, metadata=about)
    with files.publishing(path) as own, pyarrow.parquet.ParquetWriter(own, schema) as writer:
        for rows in motion.chunks():
            flat = {name: pyarrow.array(values.ravel()) for name, values in rows.items()}
            arrays = [
                pyarrow.FixedSizeListArray.from_arrays(flat[field.name], type=field.type)
                if pyarrow.types.is_fixed_size_list(field.type)
                else flat[field.name]
                for field in schema
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema))


def write_npz(path: str | os.PathLike, motion: Motion) -> None:
    """Writes a motion as an NPZ archive, whole or not at all: its arrays by name, and `About.metadata` as arrays.

    `numpy.load` reads it with `allow_pickle=False`.
    """
    with files.publishing(path) as own, zipfile.ZipFile(own, "w", allowZip64=True) as archive:
        for name, (dtype, shape) in motion.columns.items():
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (len(motion), *shape)}
            with _entry(archive, name) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for rows in motion.chunks([name]):
                    file.write(rows[name].tobytes())
        for name, value in motion.about.metadata().items():
            with _entry(archive, name) as file:
                np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)


def _entry(archive: zipfile.ZipFile, name: str) -> Any:
    # A fixed date: the same motion gives the same bytes.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


#: Writers by the ending of their files.
FORMATS: dict[str, Callable[[pathlib.Path, Motion], None]] = {"parquet": write_parquet, "npz": write_npz}
