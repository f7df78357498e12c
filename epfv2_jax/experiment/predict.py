"""Predictions of a checkpoint for recordings, written as tables and figures: a file for each sequence and format."""

import dataclasses
import os
import pathlib
import tempfile
import time
from typing import Any

from etils import epath

from epfv2_jax import checkpoints, structs
from epfv2_jax.autolabel.identity import teacher_sha256
from epfv2_jax.checkpoints import Trained
from epfv2_jax.core import bars, checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.inference import recorded
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.interop import bvh, tables
from epfv2_jax.interop import motion as motion_lib
from epfv2_jax.interop.motion import About, Columns, Motion
from epfv2_jax.models import base

SETTINGS_NAME = "predictions.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is predicted and what is written."""

    checkpoint: str
    data: str  # records, or raw data for `reader`
    out: str
    format: str = "npz"  # a key of `interop.tables.FORMATS`
    bvh: bool = False
    split: str | None = None  # None: all
    sequences: tuple[str, ...] = ()  # none: all
    reader: str = ConversionConfig().reader
    doubtful: str = ConversionConfig().doubtful

    def __post_init__(self):
        checks.one_of(tables.FORMATS, format=self.format)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the predictions in a folder come from. Another run into it goes on only with the same."""

    model_sha256: str
    data: str  # absolute
    reader: str
    doubtful: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a sequence."""

    name: str  # SPLIT/SEQUENCE
    num_frames: int = 0
    num_invalid: int = 0
    seconds: float = 0.0
    figure: bvh.BvhReport | None = None
    error: str | None = None  # why there are no predictions

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name} left out: {self.error}"
        text = f"{self.name}: {self.num_frames} frames in {self.seconds:.1f} s"
        if self.num_invalid:
            text += f", {self.num_invalid} without a pose"
        if self.figure is not None:
            moved = f"{self.figure.mean_cm:.2f} cm in the mean, {self.figure.max_cm:.2f} cm at most"
            text += f"; BVH: constant bones move the joints by {moved}"
            if self.figure.num_interpolated:
                text += f", {self.figure.num_interpolated} of {self.figure.num_rows} rows interpolated"
        return text


def predict(options: Options) -> list[Outcome]:
    """Returns what became of each sequence that had not all its files in `out`/SPLIT, after writing them.

    Shows a progress bar, and a line for each sequence. Sequences that cannot be read are left out, and the others go
    on. Memory does not grow with the length of a sequence.

    Raises:
      ValueError: there is no such checkpoint or data, its views are not the model's, or `out` holds predictions of
        another model or other data.
    """
    if options.format == "parquet":
        checks.extra_installed("pyarrow", "parquet", "--format parquet")
    trained = checkpoints.load(options.checkpoint)
    config = ConversionConfig(
        reader=options.reader, image_size_hw=trained.about.image_size_hw, doubtful=options.doubtful
    )
    sequences = recorded.open_sequences(options.data, config, options.split, options.sequences)
    for sequence in sequences:
        checks.equal(
            f"{options.data}: views of {sequence.split}/{sequence.name}",
            sequence.layout.view_names,
            trained.model.layout.view_names,
            "give a recording of the headset that the model was trained for",
        )
    out, sha256 = files.locate(options.out), teacher_sha256(trained.model, trained.variables)
    data = os.fspath(files.resolve(options.data))
    claim(out, Settings(model_sha256=sha256, data=data, reader=options.reader, doubtful=options.doubtful))
    endings = [options.format, *(["bvh"] if options.bvh else [])]
    todo = [s for s in sequences if not all(path.exists() for path in _paths(out, s, endings).values())]
    common, columns = _predicted(trained, sha256)
    predictor = Predictor(trained.model, trained.variables, trained.about.image_size_hw)
    lengths, outcomes = [sequence.num_frames for sequence in todo], []
    with bars.bar(total=None if None in lengths else sum(lengths), desc="predict", unit="frame") as bar:
        for sequence in todo:
            about = About(sequence=sequence.name, split=sequence.split, frame_s=sequence.frame_s, **common)
            try:
                with tempfile.TemporaryDirectory(prefix="epfv2_") as folder:
                    motion = Motion(pathlib.Path(folder), about, columns)
                    outcome = _predict(predictor, sequence, motion, _paths(out, sequence, endings), bar)
            except ValueError as error:
                outcome = Outcome(name=f"{sequence.split}/{sequence.name}", error=str(error))
            bar.write(str(outcome))
            outcomes.append(outcome)
    return outcomes


def claim(out: epath.Path, settings: Settings) -> None:
    """Writes the settings into a new folder, or raises ValueError if one with others is there."""
    path, remedy = out / SETTINGS_NAME, "choose another folder or delete this one"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        config_lib.write(path, settings)
    found = config_lib.read(Settings, path, remedy)
    for field in dataclasses.fields(Settings):
        checks.equal(
            f"{path}: {field.name} of the predictions here",
            getattr(settings, field.name),
            getattr(found, field.name),
            remedy,
        )


def _predict(
    predictor: Predictor, sequence: recorded.Sequence, motion: Motion, paths: dict[str, epath.Path], bar: Any
) -> Outcome:
    """Returns what was predicted for a sequence, after putting it into `motion` and writing its files."""
    began, invalid = time.monotonic(), 0
    for rows in recorded.predict(predictor, sequence, motion.columns):
        motion.append(rows)
        invalid += int((~rows["frame_valid"]).sum())
        bar.update(len(rows["frame_valid"]))
    checks.at_least(1, frames=len(motion))
    figure = None
    for ending, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == "bvh":
            figure = bvh.write_bvh(path, motion)
        else:
            tables.FORMATS[ending](path, motion)
    return Outcome(
        name=f"{sequence.split}/{sequence.name}",
        num_frames=len(motion),
        num_invalid=invalid,
        seconds=time.monotonic() - began,
        figure=figure,
    )


def _predicted(trained: Trained, sha256: str) -> tuple[dict[str, Any], Columns]:
    """Returns what the motions of all sequences have in common: values by the names of `About`, and their columns."""
    model = trained.model
    frames = structs.blank_frames(1, 1, model.layout.num_views, trained.about.image_size_hw)
    predictions = base.abstract_predictions(model, frames)
    distribution, body = predictions.distribution, predictions.body
    common = {
        "skeleton": model.skeleton,
        "view_names": model.layout.view_names,
        "model": model.config.kind,
        "model_step": trained.step,
        "model_sha256": sha256,
        "degrees_of_freedom": None if distribution is None else distribution.degrees_of_freedom,
    }
    J, V = model.skeleton.num_joints, model.layout.num_views
    return common, motion_lib.columns(J, V, uncertain=distribution is not None, body=body is not None)


def _paths(out: epath.Path, sequence: recorded.Sequence, endings: list[str]) -> dict[str, epath.Path]:
    for name in (sequence.split, sequence.name):
        checks.equal("name of the sequence's file or folder", os.path.basename(name), name, "it must be a plain name")
    return {ending: out / sequence.split / f"{sequence.name}.{ending}" for ending in endings}
