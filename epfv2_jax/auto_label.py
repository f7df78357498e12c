"""The whole auto-labelling cycle: ``python -m epfv2_jax.auto_label --config configs/als_quickstart.py``.

Trains a teacher on the labelled set, labels the unlabelled one with it, trains students and compares them. The same
command again goes on where it was cut off.
"""

import dataclasses
import pathlib

import tqdm
from absl import app, flags
from ml_collections import config_flags

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import verify, worker
from epfv2_jax.core import compile_cache, multihost
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records
from epfv2_jax.data.labels import labels
from epfv2_jax.evaluation import evaluate as evaluation
from epfv2_jax.experiment import experiment
from epfv2_jax.training import loop

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, for example configs/als_quickstart.py.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoLabelConfig:
    """One cycle. The student's `data.pseudo` names the unlabelled records and where their labels go."""

    output_dir: str
    teacher: experiment.ExperimentConfig
    unlabelled: experiment.DatasetConfig  # its own labels are never read
    label_pass: plan_lib.PassConfig = plan_lib.PassConfig()
    student: experiment.ExperimentConfig

    def __post_init__(self):
        pseudo = self.student.data.pseudo
        if pseudo is None or pseudo.labels is None:
            raise ValueError("student: data.pseudo.labels is needed, a directory for the label pass to write to")


def students(student: experiment.ExperimentConfig) -> dict[str, experiment.ExperimentConfig]:
    """Returns the students that are compared, by name; all take the same number of steps."""
    without = dataclasses.replace(student, data=dataclasses.replace(student.data, pseudo=None))
    poses = dataclasses.replace(student, loss=dataclasses.replace(student.loss, distillation_weight=0.0))
    named = {"without_als": without, "als": poses, "als_uncertainty": student}
    return {
        name: dataclasses.replace(config, output_dir=f"{student.output_dir}_{name}") for name, config in named.items()
    }


def label(config: AutoLabelConfig) -> None:
    """Labels what is not labelled yet, and checks all.

    Raises:
      ValueError: the pass is of other records, another teacher or another plan, or what it left is not whole.
    """
    pseudo = config.student.data.pseudo
    teacher = experiment.checkpoint_dir(config.teacher)
    plan = plan_lib.write_plan(pseudo.labels, plan_lib.make_plan(pseudo.directory, teacher, config.label_pass))
    done = labels.published_units(pseudo.labels, plan.num_units)
    todo = [unit for unit in range(plan.num_units) if unit not in done]
    if todo:
        with tqdm.tqdm(total=int(plan.units[todo, 2].sum()), desc="label", unit="frame") as bar:
            for report in worker.Labeller(pseudo.labels, pseudo.directory, teacher)(todo):
                bar.update(report.num_frames)
    found = verify.verify(pseudo.labels, pseudo.directory)
    if found.errors:
        raise ValueError(f"{pseudo.labels}: {found.errors[0]}")


def run(config: AutoLabelConfig) -> dict[str, evaluation.EvaluationResult]:
    """Returns the scores of the teacher and of each student on the teacher's test split."""
    dataset = config.teacher.dataset
    experiment.prepare_data(dataset)
    experiment.prepare_data(config.unlabelled)
    experiment.train(config.teacher)
    label(config)
    results = {}
    for name, trained in {"teacher": config.teacher, **students(config.student)}.items():
        experiment.train(trained)
        output = pathlib.Path(config.output_dir) / "evaluation" / name
        results[name] = experiment.evaluate(experiment.checkpoint_dir(trained), dataset.directory, output)
    comparison = {name: result.metrics for name, result in results.items()}
    records.write_json(pathlib.Path(config.output_dir) / "comparison.json", comparison)
    return results


def main(argv: list[str]) -> None:
    """Runs the recipe and prints the comparison."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    compile_cache.enable()
    try:
        config = config_lib.from_mapping(AutoLabelConfig, _CONFIG.value.to_dict())
        results = run(config)
    except multihost.Preempted as notice:
        print(notice)
        raise SystemExit(multihost.EXIT_PREEMPTED) from notice
    except (ValueError, OSError, loop.NonFiniteError) as error:
        raise SystemExit(f"error: {error}") from error
    for name, result in results.items():
        print(evaluation.format_table(result, name))
    print(f"numbers: {pathlib.Path(config.output_dir) / 'comparison.json'}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
