"""What the commands print of a run and of an evaluation."""

from etils import epath

from epfv2_jax.core import files
from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.evaluate import EvaluationResult
from epfv2_jax.experiment.config import AutoLabelConfig, ExperimentConfig
from epfv2_jax.profiling import goodput


def of_run(config: ExperimentConfig, result: EvaluationResult) -> str:
    """Returns the scores of a finished run, where its time went, and where its files are."""
    output = files.locate(config.output_dir)
    time = goodput.format_summary(goodput.summarize(output / "goodput.jsonl"))
    return "\n".join([tables.format_table(result), time, _files(output / "evaluation")])


def of_evaluation(result: EvaluationResult, output: epath.Path) -> str:
    """Returns the scores of a checkpoint, and where the files are."""
    return f"{tables.format_table(result)}\n{_files(output)}"


def of_auto_labelling(config: AutoLabelConfig, results: dict[str, EvaluationResult]) -> str:
    """Returns the scores of teacher and students by name, and where the files are."""
    scores = [tables.format_table(result, name) for name, result in results.items()]
    page = config.comparison_directory / "index.html"
    return "\n".join([*scores, f"numbers: {config.comparison}   pictures: {page}"])


def _files(output: epath.Path) -> str:
    return f"numbers: {output / 'metrics.json'}   pictures: {output / 'index.html'}"
