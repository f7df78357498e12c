"""The configuration of a run, whole: what a recipe fills and every checkpoint carries."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from epfv2_jax.autolabel.config import PassConfig
from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.core.sharding import MeshConfig
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.pipeline import DataConfig
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.evaluation.evaluate import EvaluationConfig
from epfv2_jax.models import ModelConfig
from epfv2_jax.models.epfv2.model import EPFv2Config
from epfv2_jax.objectives import ObjectiveConfig
from epfv2_jax.objectives.pose import PoseObjectiveConfig
from epfv2_jax.training.augment import AugmentConfig
from epfv2_jax.training.hooks import LoopConfig
from epfv2_jax.training.optim import OptimizerConfig
from epfv2_jax.training.step import StepConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Where the clips come from.

    `directory` holds the records. Where it is absent it is made: from the raw data in `source_directory`, which is
    itself made first where `synthetic` is given and it is absent.
    """

    directory: str  # of the records
    source_directory: str | None = None  # of the raw data
    synthetic: SyntheticConfig | None = None
    conversion: ConversionConfig = ConversionConfig()

    def __post_init__(self):
        if self.synthetic is not None:
            reader = "egobody3m" if self.synthetic.rig is None else "recording"
            remedy = "synthetic people are written for that reader"
            checks.equal("conversion.reader", self.conversion.reader, reader, remedy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One run, whole. It is saved with every checkpoint."""

    output_dir: str  # of metrics, checkpoints and evaluation; where they lie, the run resumes
    seed: int = 0  # of weights, order of the clips and noise
    encoder_weights: str | None = None  # a directory that import_weights wrote: what the encoder starts from
    init_from: str | None = None  # the directory of another run: its best weights are what this run starts from
    init_modules: tuple[str, ...] = ()  # the model's top-level modules that it takes from there; (): all
    dataset: DatasetConfig
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = EPFv2Config()
    objective: ObjectiveConfig = PoseObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    step: StepConfig
    loop: LoopConfig = LoopConfig()
    mesh: MeshConfig = MeshConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self):
        if self.data.source == "synthetic" and self.dataset.synthetic is None:
            raise ValueError("data.source = 'synthetic' needs dataset.synthetic, which says what to render")
        if self.init_modules and self.init_from is None:
            raise ValueError("init_modules names modules of init_from, which is not given")

    @property
    def checkpoint_dir(self) -> epath.Path:
        """Where the run keeps its checkpoints."""
        return files.locate(self.output_dir) / "checkpoints"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoLabelConfig:
    """One cycle. The student's `data.pseudo` names the unlabelled records and where their labels go."""

    output_dir: str  # of the comparison; teacher and student have their own
    teacher: ExperimentConfig
    unlabelled: DatasetConfig  # its own labels are never read
    label_pass: PassConfig = PassConfig()
    student: ExperimentConfig

    def __post_init__(self):
        pseudo = self.student.data.pseudo
        if pseudo is None or pseudo.labels is None:
            raise ValueError("student: data.pseudo.labels is needed, a directory for the label pass to write to")

    @property
    def comparison(self) -> epath.Path:
        """The file with the scores of teacher and students."""
        return files.locate(self.output_dir) / "comparison.json"

    @property
    def comparison_directory(self) -> epath.Path:
        """Where teacher and students are compared on one page."""
        return files.locate(self.output_dir) / "comparison"


#: What may differ from the checkpoint that a run resumes from: where, how and how long it runs, not what is learned.
CHANGEABLE = (
    *("output_dir", "dataset.directory", "dataset.source_directory", "dataset.synthetic.rig"),
    *("data.pseudo.directory", "data.pseudo.labels"),
    *("data.read_threads", "data.prefetch_batches", "data.worker_processes", "data.cache_bytes"),
    *("mesh", "loop", "evaluation", "step.steps", "model.remat", "model.scan_layers"),
)


def parse(mapping: Mapping[str, Any]) -> ExperimentConfig:
    """Returns the validated configuration of a recipe (nested plain mapping).

    Raises:
      ValueError: an unknown key, a wrong type or an impossible value; the message starts with the dotted key.
    """
    return config_lib.from_mapping(ExperimentConfig, mapping)
