"""Labels that a teacher made of records: the row format, the files of units, and the labels of a whole pass."""

from epfv2_jax.data.labels.directory import (
    PROGRESS_FOLDER,
    UNIT_FOLDER,
    published_units,
    unit_file,
)
from epfv2_jax.data.labels.labels import Labels, open_labels
from epfv2_jax.data.labels.parquet import export_parquet
from epfv2_jax.data.labels.plan import (
    PLAN_NAME,
    PlanFile,
    RecordsIdentity,
    ShardChecksum,
    TeacherIdentity,
    plan_bytes,
    read_plan,
)
from epfv2_jax.data.labels.rows import ROW_ARRAYS, BadRow, LabelRun, Status, decode, encode, row_shapes
from epfv2_jax.data.labels.units import Footer, UnitReader, published_unit, write_unit

__all__ = [
    "PLAN_NAME",
    "PROGRESS_FOLDER",
    "ROW_ARRAYS",
    "UNIT_FOLDER",
    "BadRow",
    "Footer",
    "LabelRun",
    "Labels",
    "PlanFile",
    "RecordsIdentity",
    "ShardChecksum",
    "Status",
    "TeacherIdentity",
    "UnitReader",
    "decode",
    "encode",
    "export_parquet",
    "open_labels",
    "plan_bytes",
    "published_unit",
    "published_units",
    "read_plan",
    "row_shapes",
    "unit_file",
    "write_unit",
]
