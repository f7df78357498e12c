"""The auto-labelling cycle: train a teacher, label with it, train students and compare them.

Run again, it continues where it was interrupted.
"""

import dataclasses

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import verify, worker
from epfv2_jax.core import bars, files
from epfv2_jax.data import labels
from epfv2_jax.evaluation.evaluate import EvaluationResult
from epfv2_jax.experiment import compare, data, score, train
from epfv2_jax.experiment.config import AutoLabelConfig, ExperimentConfig


def auto_label(config: AutoLabelConfig) -> dict[str, EvaluationResult]:
    """Returns the scores of the teacher and of each student on the teacher's test split.

    Writes them as JSON, a report of each, and a page on which all are compared.
    """
    dataset = config.teacher.dataset
    data.prepare_data(dataset)
    data.prepare_data(config.unlabelled)
    train.train(config.teacher)
    label(config)
    models, results, output = {"teacher": config.teacher, **students(config.student)}, {}, config.comparison_directory
    for name, trained in models.items():
        train.train(trained)
        evaluation = files.locate(config.output_dir) / "evaluation" / name
        results[name] = score.evaluate(trained.checkpoint_dir, dataset.directory, evaluation)
    files.write_json(config.comparison, {name: result.metrics for name, result in results.items()})
    compare.compare({name: trained.output_dir for name, trained in models.items()}, dataset.directory, output)
    return results


def students(student: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """Returns the students that are compared, by name; all take the same number of steps."""
    without = dataclasses.replace(student, data=dataclasses.replace(student.data, pseudo=None))
    poses = dataclasses.replace(student, objective=dataclasses.replace(student.objective, distillation_weight=0.0))
    named = {"without_als": without, "als": poses, "als_uncertainty": student}
    return {
        name: dataclasses.replace(config, output_dir=f"{student.output_dir}_{name}") for name, config in named.items()
    }


def label(config: AutoLabelConfig) -> None:
    """Labels what is not labelled yet, and checks all.

    Raises:
      ValueError: the pass has other records, another teacher or another plan, or its labels are not complete.
    """
    pseudo, teacher = config.student.data.pseudo, config.teacher.checkpoint_dir
    plan = plan_lib.write_plan(pseudo.labels, plan_lib.make_plan(pseudo.directory, teacher, config.label_pass))
    done = labels.published_units(pseudo.labels, plan.num_units)
    todo = [unit for unit in range(plan.num_units) if unit not in done]
    if todo:
        with bars.bar(total=int(plan.units[todo, 2].sum()), desc="label", unit="frame") as bar:
            for report in worker.Labeller(pseudo.labels, pseudo.directory, teacher)(todo):
                bar.update(report.num_frames)
    found = verify.verify(pseudo.labels, pseudo.directory)
    if found.errors:
        raise ValueError(f"{pseudo.labels}: {found.errors[0]}")
