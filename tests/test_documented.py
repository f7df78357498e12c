"""Every command in README and docs is executed by a test, or stands in a table here with the reason why not.

`WALK` is executed by this file, in small; `ELSEWHERE` by the test that it names; `NOT_RUN` says why the rest is not.
A command is written as in the text, `python -m epfv2_jax.` left out.
"""

import importlib
import pathlib
import re
import shlex
import shutil

import own_rigs
import pytest
import tiny
import walker

from epfv2_jax.core import exits

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXTS = [
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "examples/*/README.md")
    for path in sorted(ROOT.glob(pattern))
]
PROGRAMS = (
    *("python", "python3", ".venv/bin/python", "epfv2", "pytest", "pip", "ruff", "mkdocs", "bash", "taskset"),
    *("cmake", "build/cpp/stream", "sbatch", "scancel", "kubectl", "gcloud", "aws", "hf", "/usr/bin/time", "tail"),
)
COMMAND = re.compile(rf"(?:{'|'.join(map(re.escape, PROGRAMS))}) \S|(?:[A-Z]+=\S.* )?launch/\w+\.sh\b")
SMALL = "--sequences 1 1 1 --frames 8 --image_width 40"

# (command as in the text, its words that stand for something or are large -> what each gets in turn, further flags)
WALK = (
    (
        "train --config configs/quickstart.py",
        {},
        " ".join(tiny.flags(dataset__synthetic__test_sequences=4, data__batch_size=8)),
    ),
    (
        "demo --checkpoint runs/quickstart --sequence data/quickstart/zips/test/synthetic_test_00003.images.zip",
        {},
        "--frames 3",
    ),
    (
        "demo --checkpoint DIR --sequence ZIP_OR_DIR",
        {"DIR": "runs/quickstart", "ZIP_OR_DIR": "data/quickstart/records/test"},
        "--frames 3",
    ),
    ("predict --checkpoint runs/quickstart --data data/quickstart/records --out predictions --bvh", {}, ""),
    (
        "predict --checkpoint DIR --data DIR --out DIR [--bvh]",
        {"DIR": "runs/quickstart data/quickstart/records out/predictions"},
        "",
    ),
    (
        "predict --checkpoint runs/NAME --data DIR --out predictions --bvh",
        {"runs/NAME": "runs/quickstart", "DIR": "data/quickstart/records", "predictions": "out/same"},
        "",
    ),
    (
        "evaluate --checkpoint runs/NAME --data DIR",
        {"runs/NAME": "runs/quickstart", "DIR": "data/quickstart/records"},
        "",
    ),
    ("compare --runs DIR DIR --data DIR", {"DIR": "runs/quickstart runs/copy data/quickstart/records"}, ""),
    ("package --checkpoint runs/NAME --out DIR", {"runs/NAME": "runs/quickstart", "DIR": "out/model"}, ""),
    (
        "package --checkpoint runs/NAME --out model --licence CC-BY-NC-4.0 --data EgoBody3M",
        {"runs/NAME": "runs/quickstart"},
        "",
    ),
    (
        "pseudo_label plan --data data/unlabelled/records/train --checkpoint runs/teacher_dinov3_vitb16"
        " --out data/unlabelled/labels",
        {},
        "--slots 8",
    ),
    (
        "pseudo_label run --engine index --index 0 --count 1 --data data/unlabelled/records/train"
        " --checkpoint runs/teacher_dinov3_vitb16 --out data/unlabelled/labels",
        {},
        "",
    ),
    ("pseudo_label status --out data/unlabelled/labels", {}, ""),
    ("pseudo_label verify --data data/unlabelled/records/train --out data/unlabelled/labels", {}, ""),
    (
        "synthesize --out zips --sequences 4 0 0 --frames 64 --image_width 640",
        {"4": "1", "64": "8", "640": "40"},
        "",
    ),
    ("convert --source zips --out records --doubtful keep", {}, "--image_size 16"),
    ("convert --source DIR --out DIR", {"DIR": "zips out/records"}, "--image_size 16 --doubtful keep"),
    ("calibrate --source DIR", {"DIR": "zips"}, ""),
    (
        "synthesize --out DIR [--train_motion *.amc --motion_fps 120]",
        {"DIR": "out/people"},
        SMALL,
    ),
    (
        "synthesize --out DIR --train_motion FILES",
        {"DIR": "out/walkers", "FILES": "walk.bvh"},
        SMALL,
    ),
    ("synthesize --out DIR --rig FILE", {"DIR": "out/own", "FILE": "headset.yaml"}, SMALL),
    ("validate DIR", {"DIR": "data/quickstart/records"}, ""),
    (
        "convert --reader recording --source DIR --out DIR",
        {"DIR": "out/own out/own_records"},
        "--image_size 16 --doubtful keep",
    ),
    ("preview DATA", {"DATA": "out/own"}, "--out out/raw.html"),
    ("preview DATA [--labels DIR]", {"DATA": "data/quickstart/records"}, "--out out/records.html"),
    (
        "preview RECORDS --labels DIR",
        {"RECORDS": "data/unlabelled/records/train", "DIR": "data/unlabelled/labels"},
        "--out out/labels.html",
    ),
)
_EXPORTS = "tests/deploy/test_exporter.py::test_onnx_is_jax_over_two_hundred_frames"
_IMPORT = "tests/models/encoders/test_torch_weights.py::test_the_command_imports_a_file_that_a_run_can_start_from"
_READER = "tests/test_extending.py::test_the_reader_of_the_page_converts_and_its_records_train"
_TPU = "tests/test_dry_run.py::test_shipped_recipes_fit"
_JOBSET = "tests/launch/test_launch.py::test_jobset_trains_on_every_machine_of_a_slice"
_LABEL_JOB = "tests/launch/test_launch.py::test_label_job_gives_each_index_a_share_and_each_machine_its_own_chips"
_SLURM = "tests/launch/test_launch.py::test_slurm_queues_a_run_again_only_when_told_to_stop"
# Command -> a test that executes it, with names and sizes of its own.
ELSEWHERE = {
    "python -m epfv2_jax": "tests/test_commands.py::test_help_comes_at_once_and_imports_nothing_heavy",
    "epfv2 train --config quickstart": "tests/test_installed.py::test_a_tiny_run_trains_from_an_empty_folder",
    "pip wheel .": "tests/test_installed.py::test_every_file_of_the_package_is_installed_and_every_recipe",
    "convert --reader pair --source takes --out data/pair": _READER,
    "export --checkpoint DIR --out FILE.onnx": _EXPORTS,
    "export --checkpoint runs/NAME --out model.onnx": _EXPORTS,
    "export --checkpoint runs/quickstart --out examples/web/public/model.onnx --data data/quickstart/records"
    " --split test --golden_frames 300": (
        "tests/deploy/test_web_example.py::test_the_graph_computes_in_the_browser_what_jax_does"
    ),
    "verify_onnx FILE.onnx": "tests/test_extending.py::test_the_toy_model_is_exported_without_a_line_for_it",
    "build/cpp/stream model.onnx": "tests/deploy/test_cpp_example.py::test_streams_as_numpy_does",
    "cmake --build build/cpp": "tests/deploy/test_cpp_example.py::test_streams_as_numpy_does",
    "import_weights --encoder NAME --file F.safetensors --out DIR": _IMPORT,
    "dry_run --config configs/NAME.py --topology v5e:4x4": _TPU,
    "dry_run --config configs/egobody3m_resnet18.py --topology v5e:4x4": _TPU,
    "HOSTS=16 TOPOLOGY=8x8 launch/gke_jobset.sh": _JOBSET,
    "launch/gke_jobset.sh": _JOBSET,
    "launch/gke_label_pass.sh": _LABEL_JOB,
    "launch/tpu_queued_resources.sh": "tests/launch/test_launch.py::test_tpus_are_asked_for_and_waited_for",
    "COMMAND=\"env $ALONE bash -c '$RUN || [ \\$? -eq 3 ]'\" launch/tpu_queued_resources.sh": (
        "tests/launch/test_launch.py::test_the_runbook_labels_on_queued_resources"
    ),
    ".venv/bin/python -m epfv2_jax.convert --source data/egobody3m/zips --out data/egobody3m/records --engine index": (
        "tests/launch/test_launch.py::test_convert_command_is_accepted"
    ),
    "sbatch launch/slurm_train.sbatch": _SLURM,
    "sbatch --nodes=4 launch/slurm_train.sbatch": _SLURM,
    "sbatch launch/slurm_label_pass.sbatch": (
        "tests/launch/test_launch.py::test_slurm_label_pass_ends_well_with_quarantined_rows"
    ),
}
#: Pages whose blocks of commands are run in their order by a test of their own.
WHOLE_PAGES = {"own_data.md": "tests/test_own_data.py::test_every_command_of_the_page_does_what_it_says"}
# Reason -> commands.
NOT_RUN = {
    "it names a command, with nothing to run": (
        *("evaluate", "pseudo_label plan", "epfv2 COMMAND", "gcloud compute tpus tpu-vm ssh", "/usr/bin/time -v"),
        *("convert --reader NAME --source DIR --out DIR", "train --config configs/NAME.py"),
    ),
    "hours of training; test_shipped_recipes_are_valid and test_every_command_in_the_texts_is_accepted check it": (
        "auto_label --config configs/als_quickstart.py",
        "auto_label --config configs/als_quickstart.py:0 --config.student.data.pseudo.max_sigma_m=0.05"
        " --config.student.output_dir=runs/als_quickstart_0/confident"
        " --config.output_dir=runs/als_quickstart_confident_0",
        *("train --config configs/synthetic.py:cpu", "train --config configs/synthetic.py:cpu-no_temporal"),
        *("train --config configs/synthetic.py:short", "train --config configs/synthetic.py:cpu-headset_only"),
        "train --config configs/synthetic.py:cpu --config.output_dir=runs/clips"
        " --config.init_from=runs/synthetic_cpu_full --config.model.encoder_train=none"
        " --config.data.warmup=None --config.data.batch_size=16"
        " --config.step.steps=240 --config.step.ema_decay=0.95 --config.optimizer.learning_rate=2e-4"
        " --config.optimizer.warmup_steps=20",
        "train --config configs/quickstart.py:headset_only",
        "train --config configs/quickstart.py --config.output_dir=runs/no_lamps"
        " --config.dataset.directory=data/no_lamps/records --config.dataset.source_directory=data/no_lamps/zips"
        " --config.dataset.synthetic.headset_lamp=0,0 --config.model.encoder=small_stride16"
        " --config.model.local_contrast=0.2 --config.model.limb_maps=True --config.objective.limb_weight=2000"
        " --config.data.warmup.steps=3800 --config.step.steps=4200",
        *("train --config configs/mocap.py:full", "train --config configs/mocap.py:no_projection"),
        *("train --config configs/mocap.py:no_temporal", "train --config configs/baselines/lstm.py:cpu"),
        "train --config configs/baselines/lstm.py:cpu --config.output_dir=runs/lstm_adamw"
        " --config.optimizer.kind=adamw --config.optimizer.learning_rate=1e-3"
        " --config.data.warmup.steps=20000 --config.step.steps=27000",
        "train --config configs/baselines/epfv1.py:heatmap-cpu",
        "train --config configs/baselines/epfv1.py:pose-cpu",
        "train --config configs/baselines/unrealego.py:heatmap-cpu",
        "train --config configs/baselines/unrealego.py:pose-cpu",
    ),
    "it needs what those train; the same command with other names is in WALK": (
        "compare --runs runs/synthetic_cpu_full runs/synthetic_cpu_headset_only runs/synthetic_cpu_lstm"
        " runs/synthetic_cpu_epfv1_pose runs/synthetic_cpu_unrealego_pose --data data/synthetic_cpu/records"
        " --split validation",
        "evaluate --checkpoint runs/mocap_full --data data/mocap/records --split train",
        "evaluate --checkpoint runs/synthetic_cpu_full --data data/synthetic_cpu/records --split validation",
        "evaluate --checkpoint runs/synthetic_short_full --data data/synthetic_short/records --split validation",
    ),
    "it needs several hosts; tests/training/test_cluster.py runs several processes": (
        "train --config configs/egobody3m_resnet18.py --coordinator_address"
        " epfv2-train-workers-0-0.epfv2-train:8476 --num_processes 4",
    ),
    "it needs real images that are not shipped; the commands before it on the page are run with synthetic ones": (
        "train --config configs/own_headset.py:tiny --config.dataset.synthetic.rig=aria_adt_asl"
        " --config.data.warmup.steps=350 --config.step.steps=400 --config.optimizer.learning_rate=1e-3"
        " --config.loop.evaluate_every=200 --config.loop.checkpoint_every=200",
        "demo --checkpoint runs/own_headset --sequence aria_adt_asl",
    ),
    "it compiles for many minutes; the same command with a smaller search is tested": (
        "dry_run --config configs/egobody3m_resnet18.py --topology v5e:4x4 --search 3",
        "dry_run --config configs/teacher_dinov3_vit.py:l16 --topology v5e:4x4 --batch_per_device 1"
        " --config.mesh.data=1 --config.mesh.fsdp=-1 --config.model.scan_layers=true --search 3",
    ),
    "a benchmark, for a quiet machine": (
        "python benchmarks/decoder_joints.py --repeats 100",
        "python benchmarks/error_persistence.py --checkpoint runs/synthetic_cpu_full --data data/synthetic_cpu/records",
        "python benchmarks/label_pass.py planning",
        "python benchmarks/learning.py --steps 500 --every 100",
        "python benchmarks/memory.py",
        "python benchmarks/onnx_latency.py --torch_python PYTHON",
        "python benchmarks/onnx_precision.py --checkpoint runs/quickstart --data data/quickstart/records --repeats 60",
        "python benchmarks/web_latency.py --checkpoint runs/quickstart --data data/quickstart/records",
        "python benchmarks/training_loop.py",
        "python benchmarks/training_loop.py --config configs/baselines/lstm.py:cpu"
        " --options xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
        "python benchmarks/training_step.py --repeats 5",
        "taskset -c 0 python benchmarks/encoders.py --repeats 5",
        "taskset -c 0 python benchmarks/label_arithmetic.py --data records/train",
        "taskset -c 0 python benchmarks/streaming.py",
        "taskset -c 0,1 python benchmarks/label_pass.py scaling teacher restart memory planning",
        "taskset -c 0,1 python benchmarks/rendering.py",
    ),
    "it installs from a package registry; .ci/run installs the same": (
        "python3 -m venv .venv && .venv/bin/pip install -q -e . && "
        ".venv/bin/python -m epfv2_jax.train --config configs/quickstart.py",
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && "
        '.venv/bin/python -m pytest -q -n 2 -m "not slow"',
        "python -m venv .venv && .venv/bin/pip install -e . 'jax[tpu]'",
        *("pip install 'epfv2_jax[hub]'", "pip install -e '.[NAME]'", "pip install -e '.[docs]'"),
        *("pip install -e '.[export]'", "pip install -e '.[parquet]'"),
    ),
    "it runs tests, or the linter, or all of them: a test would run itself": (
        *("bash .ci/run", 'python -m pytest -q -n 2 -m "not slow"', "ruff check . && ruff format ."),
        *("pytest tests/interop", "pytest tests/launch", "pytest -m slow tests/training/test_cluster.py"),
        "pytest -m extras tests/core/test_stores.py tests/experiment/test_on_stores.py",
        *("pytest -m extras tests/models/encoders/test_torch_parity.py", "python tests/test_house.py"),
    ),
    "it needs the extra 'docs'; .ci/run builds the site": ("mkdocs serve", "mkdocs build --strict"),
    "it fetches headers from a package archive; the test of the example calls CMake itself": (
        "cmake -S examples/cpp -B build/cpp"
        " -DONNXRUNTIME_INCLUDE_DIR=$(examples/cpp/fetch_headers.sh build/onnxruntime)"
        ' -DONNXRUNTIME_LIBRARY=$(python -c "import glob, os, onnxruntime as o; '
        "print(glob.glob(os.path.dirname(o.__file__) + '/capi/libonnxruntime.so.*')[0])\")",
    ),
    "it is another program's, and needs a cluster, a cloud or an account": (
        *("aws s3 cp --recursive", "gcloud storage cp -r", "hf upload ORGANISATION/NAME model"),
        *("gcloud compute tpus queued-resources delete epfv2-train --force", "kubectl delete jobset epfv2-train"),
        'gcloud compute tpus tpu-vm ssh epfv2-train --worker=all --command="pkill -TERM -f [e]pfv2_jax.train"',
        "kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=epfv2-train --prefix",
        *("kubectl apply -f -", "scancel JOB", "scancel --signal=TERM JOB", "tail -F epfv2-train-JOB.log"),
    ),
}
#: What `pods.md` starts through launch/, and no page spells out.
_BETWEEN = "pseudo_label run --engine index --index 0 "


def commands(text: str) -> list[str]:
    """Returns the commands of a text: lines of its shell blocks and of indented ones, and spans of code."""
    text = re.sub(r" *\\\n *", " ", text)
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    text = re.sub(r"^    \S.*$", "", text, flags=re.MULTILINE)
    for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        lines += block.splitlines() if language == "bash" else []
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = [re.sub(r"\s*\n\s*", " ", span).replace("\\|", "|") for span in re.findall(r"`([^`]+)`", text)]
    found = [re.sub(r" +# .*", "", line).strip() for line in lines] + spans
    return [line.removeprefix("python -m epfv2_jax.") for line in found if COMMAND.match(line)]


def text_of(path: pathlib.Path) -> str:
    """Returns a text without the blocks of commands that a test of the whole page runs."""
    text = path.read_text()
    return re.sub(r"```bash\n.*?```", "", text, flags=re.DOTALL) if path.name in WHOLE_PAGES else text


FOUND = {command: path for path in TEXTS for command in commands(text_of(path))}
LISTED = [command for command, *_ in WALK if not command.startswith(_BETWEEN)]
LISTED += [*ELSEWHERE, *(command for listed in NOT_RUN.values() for command in listed)]


def test_every_command_is_run_or_listed_with_the_reason():
    unknown = {command: str(path.relative_to(ROOT)) for command, path in FOUND.items() if command not in LISTED}
    assert not unknown, "add each to a table of this file"
    assert len(LISTED) == len(set(LISTED)), "one table for each command"


def test_no_table_holds_what_no_text_says():
    assert set(LISTED) - set(FOUND) == set()


def test_the_tests_that_run_commands_exist():
    for named in (*ELSEWHERE.values(), *WHOLE_PAGES.values()):
        path, _, test = named.partition("::")
        assert f"def {test}(" in (ROOT / path).read_text(), named


def arguments(command: str, words: dict[str, str], further: str) -> list[str]:
    """Returns the words of a command, those that stand for something replaced."""
    turns = {word: iter(given.split()) for word, given in words.items()}
    plain = shlex.split(re.sub(r" \[.*?\]", "", command))
    return [next(turns[word]) if word in turns else word for word in plain] + shlex.split(further)


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
    """The folder in which the commands run: what the texts suppose to be there."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "walk.bvh").write_text(walker.bvh_text(walker.walk()))
    six = own_rigs.write(tmp_path / "rigs")["six"]
    for file in six.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands_run_in_small(home, capsys):
    for i, (command, words, further) in enumerate(WALK):
        name, *given = arguments(command, words, further)
        code = importlib.import_module(f"epfv2_jax.{name}").main(given)
        told = capsys.readouterr()
        assert code == exits.DONE, f"{command}: {code}\n{told.out}\n{told.err}"
        if i == 0:  # names that the texts use for other runs and data of this kind
            shutil.copytree(home / "runs/quickstart", home / "runs/copy")
            shutil.copytree(home / "runs/quickstart", home / "runs/teacher_dinov3_vitb16")
            shutil.copytree(home / "data/quickstart/records/test", home / "data/unlabelled/records/train")
