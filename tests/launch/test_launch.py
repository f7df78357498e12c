"""The files in launch/, without any cluster: rendered, and their shell run with stand-ins for what schedulers bring."""

import itertools
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from epfv2_jax import convert, dry_run, pseudo_label, train
from epfv2_jax.core import exits, tasks
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.experiment import recipe
from epfv2_jax.experiment.config import ExperimentConfig

yaml = pytest.importorskip("yaml")

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FILES = sorted(path.name for path in LAUNCH.iterdir())
RUNBOOK = (ROOT / "docs/pods.md").read_text()
# What the variables without a default need.
NEEDED = {"PROJECT": "some-project", "SHARE": "10.0.0.2:/share"}
# What the scheduler brings, and the shell.
BROUGHT = {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"}
DONE, ERROR, PREEMPTED, BAD_ROWS = exits.DONE, exits.ERROR, exits.PREEMPTED, exits.PARTIAL


def variables(name: str) -> dict[str, str]:
    """Returns the variables at the top of a file, and their defaults."""
    text = (LAUNCH / name).read_text()
    return dict(re.findall(r"^([A-Z_]+)=\$\{\1:[-?](.*)\}", text, re.MULTILINE))


def printed(name: str, **settings: str) -> str:
    """Returns what a file that prints a manifest prints."""
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(
        ["bash", LAUNCH / name], env=environment, capture_output=True, text=True, check=True, timeout=20
    ).stdout


def manifest(name: str, **settings: str) -> dict:
    """Returns the manifest as Kubernetes reads it."""
    return yaml.safe_load(printed(name, **settings))


def pod_of(job: dict) -> tuple[dict, dict]:
    """Returns the specification of a Job's pods and their only container."""
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


# Each call takes the next exit code; the last one stays.
PYTHON = """
echo "python $*" >> "$LOG"
read -r code < "$CODES"
if [ "$(wc -l < "$CODES")" -gt 1 ]; then sed -i 1d "$CODES"; fi
exit "$code"
"""
# Its own options, then the command; it ends with the highest code of its tasks.
SRUN = """
while [[ $1 == --* ]]; do shift; done
highest=0
for task in 0 1; do
  "$@"
  code=$?
  highest=$((code > highest ? code : highest))
done
exit $highest
"""
# Two tasks at once as SLURM starts them; the second is told to stop when both are under way.
SRUN_AND_STOP = """
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks[task]=$!
done
until [ -e ready_0 ] && [ -e ready_1 ]; do
  kill -0 "${tasks[@]}" || exit 9
  command sleep 0.05
done
kill -TERM "${tasks[1]}"
for task in 0 1; do
  wait "${tasks[task]}"
  code=$?
  highest=$((code > highest ? code : highest))
done
exit $highest
"""
# What a run does about the others: it joins them, and stops after the same step.
RUN = """
import itertools, pathlib, sys, time
import jax
from epfv2_jax.core import multihost

multihost.connect()
with multihost.preemption() as stop_after:
    for step in itertools.count(1):
        pathlib.Path(f"ready_{jax.process_index()}").touch()
        time.sleep(0.05)
        if stop_after(step):
            pathlib.Path(f"stopped_{jax.process_index()}_of_{jax.process_count()}").write_text(str(step))
            sys.exit(multihost.EXIT_PREEMPTED)
"""
# A cloud with one queued resource, whose states come one after the other, and two workers; the code of ssh is the first
# that is not 0.
GCLOUD = """
case "$*" in
  *"queued-resources describe"*)
    read -r state < states
    if [ "$(wc -l < states)" -gt 1 ]; then sed -i 1d states; fi
    [ "$state" != ABSENT ] || exit 1
    echo "$state"
    ;;
  *"tpu-vm ssh"*--worker=all*)
    first=0
    for argument in "$@"; do
      [[ $argument == --command=* ]] || continue
      for worker in 0 1; do
        bash -c "${argument#--command=}"
        code=$?
        [ $first -ne 0 ] || first=$code
      done
    done
    exit $first
    ;;
esac
"""


class Machine:
    """A folder that stands for a checkout, with a Python that does as it is told, and commands that are recorded."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        (folder / ".venv/bin").mkdir(parents=True)
        self.codes(DONE)
        self.write(folder / ".venv/bin/python", PYTHON)
        self.command("sleep", "true")

    def write(self, path: pathlib.Path, body: str) -> None:
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def command(self, name: str, body: str) -> None:
        """Puts a command on the PATH that records its arguments and runs `body`."""
        self.write(self.bin / name, f'echo "{name} $*" >> "$LOG"\n{body}')

    def codes(self, *codes: int) -> None:
        """Sets the exit codes of the next calls of Python."""
        (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(self.folder / "log"),
            "CODES": str(self.folder / "codes"),
        }

    def run(self, *command: str | pathlib.Path, **settings: str) -> int:
        """Returns the exit code of a command that runs in the folder."""
        return subprocess.run(
            command, env={**self.environment, **settings}, cwd=self.folder, timeout=60, check=False
        ).returncode

    def calls(self, start: str) -> list[str]:
        log = self.folder / "log"
        return [line for line in log.read_text().splitlines() if line.startswith(start)] if log.exists() else []


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_the_shell_is_valid_and_the_variables_stand_at_the_top(name):
    path = LAUNCH / name
    text = path.read_text()
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", path], check=True)
    own = variables(name)
    assert own and text.splitlines()[0] == "#!/usr/bin/env bash"
    helpers = set(re.findall(r"^ *([A-Za-z_]+)=", text, re.MULTILINE)) - set(own)
    used = re.findall(r"(?<!\\)\$\{?([A-Za-z_]+)", text)
    assert set(used) == set(own) | (set(used) & (helpers | BROUGHT))  # nothing is used that is not defined
    for variable in own:
        assert used.count(variable) > 1, f"{variable} is set and not used"
    assert len(text.splitlines()) < 90


@pytest.mark.parametrize("name", ["gke_jobset.sh", "gke_label_pass.sh"])
def test_every_variable_arrives_in_the_manifest(name):
    lists = {"VISIBLE_CHIPS", "CHIP_BOUNDS"}
    numbers = {"HOSTS", "CHIPS", "RESTARTS", "COUNT", "AT_ONCE"}
    for variable in variables(name):
        value = "4242" if variable in numbers else "7,7,7" if variable in lists else "some-value"
        text = printed(name, **{variable: value})
        assert value in text and value not in printed(name)
        assert yaml.safe_load(text)
    assert not re.search(r"\$\{?[A-Z]", printed(name))


def test_jobset_trains_on_every_machine_of_a_slice():
    jobset = manifest("gke_jobset.sh", HOSTS="16", CHIPS="4", TOPOLOGY="8x8")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == 1 and job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    assert job["completions"] == job["parallelism"] == 16
    pod, container = pod_of(job)
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    assert set(pod["nodeSelector"]) == {f"cloud.google.com/gke-tpu-{x}" for x in ("accelerator", "topology")}
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert "--distributed" in container["args"][0] and "--process_id" not in container["args"][0]


@pytest.mark.parametrize(
    "code, disrupted, counts",
    [
        (PREEMPTED, False, False),
        (PREEMPTED, True, False),
        (137, True, False),
        (ERROR, False, True),
        (134, False, True),
        (137, False, True),
    ],
)
def test_jobset_restarts_without_limit_only_when_told_to_stop(code, disrupted, counts):
    spec = manifest("gke_jobset.sh")["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]

    def matches(rule: dict) -> bool:
        exit_codes = rule.get("onExitCodes", {"values": []})
        return code in exit_codes["values"] or (disrupted and "onPodConditions" in rule)

    # With backoffLimit 0 any other failed pod fails the Job as well.
    failed = any(matches(rule) and rule["action"] == "FailJob" for rule in job["podFailurePolicy"]["rules"])
    reason = "PodFailurePolicy" if failed else "BackoffLimitExceeded"
    actions = [r["action"] for r in spec["failurePolicy"]["rules"] if reason in r["onJobFailureReasons"]]
    assert actions == ([] if counts else ["RestartJobSetAndIgnoreMaxRestarts"])
    assert 0 < spec["failurePolicy"]["maxRestarts"] < 100
    names = {rule.get("onExitCodes", {}).get("containerName") for rule in job["podFailurePolicy"]["rules"]}
    assert names == {None, pod_of(job)[1]["name"]}


def test_label_job_gives_each_index_a_share_and_each_machine_its_own_chips():
    job = manifest("gke_label_pass.sh", COUNT="64", AT_ONCE="8")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 64, 8)
    assert spec["backoffLimitPerIndex"] > 0 and "backoffLimit" not in spec
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    pod, container = pod_of(spec)
    assert pod["restartPolicy"] == "Never" and container["resources"]["limits"] == {"google.com/tpu": 4}
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert all(isinstance(value, str) for value in environment.values())
    for name, value in environment.items():  # as the runbook says
        assert f"{name}={value}" in RUNBOOK
    assert "--engine index" in container["args"][0] and "--count 64" in container["args"][0]
    assert tasks.index_from_environment({"JOB_COMPLETION_INDEX": "63"}, 64) == (63, 64)


def container_command(name: str) -> list[str]:
    job = manifest(name)["spec"]
    job = job["replicatedJobs"][0]["template"]["spec"] if "replicatedJobs" in job else job
    _, container = pod_of(job)
    return [*container["command"], *container["args"]]


@pytest.mark.parametrize(
    "name, code, expected",
    [("gke_jobset.sh", code, code) for code in (DONE, ERROR, PREEMPTED)]
    + [("gke_label_pass.sh", code, code) for code in (DONE, ERROR, 2)]
    + [("gke_label_pass.sh", BAD_ROWS, DONE)],
)
def test_what_a_container_ends_with(machine, name, code, expected):
    machine.codes(code)
    assert machine.run(*container_command(name)) == expected
    assert len(machine.calls("python")) == 1


def test_sigterm_reaches_the_process_in_the_container(machine):
    machine.write(
        machine.folder / ".venv/bin/python",
        f'trap "exit {PREEMPTED}" TERM\necho "python $*" >> "$LOG"\nwhile :; do command sleep 0; done',
    )
    process = subprocess.Popen(container_command("gke_jobset.sh"), env=machine.environment, cwd=machine.folder)
    try:
        deadline = time.monotonic() + 20
        while not machine.calls("python") and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == PREEMPTED
    finally:
        process.kill()


@pytest.fixture
def slurm(machine) -> Machine:
    machine.command("scontrol", "exit 0")
    machine.command("srun", SRUN)
    return machine


@pytest.mark.parametrize("codes", [(DONE,), (ERROR,), (DONE, ERROR), (PREEMPTED,), (ERROR, 137)])
def test_slurm_queues_a_run_again_only_when_told_to_stop(slurm, codes):
    slurm.codes(*codes)
    code = slurm.run("bash", LAUNCH / "slurm_train.sbatch", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="8")
    assert len(slurm.calls("srun")) == 1 and len(slurm.calls("python")) == 2
    again = max(codes) == PREEMPTED
    assert slurm.calls("scontrol") == (["scontrol requeue 7"] if again else [])
    assert code == (0 if again else max(codes))


def test_slurm_runs_find_each_other_and_stop_together(slurm):
    slurm.command("srun", SRUN_AND_STOP)
    (slurm.bin / "sleep").unlink()
    (slurm.folder / "run.py").write_text(RUN)
    # JAX makes the port of the number of the job.
    job = next(job for job in itertools.count(os.getpid()) if port_is_free(65536 - 4096 + job % 4096))
    settings = {"SLURM_JOB_ID": str(job), "SLURM_CPUS_PER_TASK": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = f"{sys.executable} run.py"
    assert slurm.run("bash", LAUNCH / "slurm_train.sbatch", COMMAND=command, **settings) == 0
    assert slurm.calls("scontrol") == [f"scontrol requeue {job}"]
    steps = [(slurm.folder / f"stopped_{i}_of_2").read_text() for i in (0, 1)]
    assert steps[0] == steps[1]


def port_is_free(port: int) -> bool:
    with socket.socket() as listener:
        return listener.connect_ex(("127.0.0.1", port)) != 0


def test_slurm_tells_the_processes_and_not_the_script():
    options = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm_train.sbatch").read_text(), re.MULTILINE)
    (seconds,) = re.findall(r"^--signal=TERM@(\d+)$", "\n".join(options), re.MULTILINE)
    assert int(seconds) >= 60 and "--requeue" in options
    told = dict(option.split("=", 1) for option in options if "=" in option)
    assert told["--gpus-per-node"] == told["--ntasks-per-node"]  # JAX takes one device for a process under SLURM


@pytest.mark.parametrize("code, expected", [(DONE, DONE), (BAD_ROWS, DONE), (ERROR, ERROR), (2, 2)])
def test_slurm_label_pass_ends_well_with_quarantined_rows(slurm, code, expected):
    slurm.codes(code)
    assert slurm.run("bash", LAUNCH / "slurm_label_pass.sbatch") == expected
    assert len(slurm.calls("python")) == 1


@pytest.fixture
def gcloud(machine) -> Machine:
    machine.command("gcloud", GCLOUD)
    return machine


def train_on_tpus(gcloud: Machine, states: list[str], codes: list[int]) -> tuple[int, list[str]]:
    """Returns the exit code of the script, and what it asked of the cloud besides the state."""
    (gcloud.folder / "states").write_text("".join(f"{state}\n" for state in states))
    gcloud.codes(*codes)
    code = gcloud.run(
        "bash", LAUNCH / "tpu_queued_resources.sh", **NEEDED, SETUP="true", DIRECTORY=str(gcloud.folder), NAME="slice"
    )
    asked = [line.removeprefix("gcloud compute tpus ") for line in gcloud.calls("gcloud")]
    assert all("--project=some-project" in line and "--zone=" in line for line in asked)
    verbs = [" ".join(line.split()[:2]) for line in asked]
    return code, [verb.split()[1] for verb in verbs if not verb.endswith("describe")]


def test_tpus_are_asked_for_and_waited_for(gcloud):
    states = ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert train_on_tpus(gcloud, states, [DONE]) == (DONE, ["create", "ssh"])
    assert len(gcloud.calls("sleep")) == 2
    (created,) = gcloud.calls("gcloud compute tpus queued-resources create")
    assert "create slice --node-id=slice " in created and created.count("--spot") == 1
    assert len(set(gcloud.calls("python"))) == 1 and len(gcloud.calls("python")) == 2  # the same on each worker


def test_tpus_go_on_when_told_to_stop(gcloud):
    codes = [PREEMPTED, PREEMPTED, DONE]
    assert train_on_tpus(gcloud, ["ACTIVE"], codes) == (DONE, ["ssh", "ssh"])


def test_tpus_do_not_repeat_an_error(gcloud):
    assert train_on_tpus(gcloud, ["ACTIVE"], [DONE, ERROR]) == (ERROR, ["ssh"])


def test_tpus_that_were_taken_away_are_asked_for_again(gcloud):
    states = ["ACTIVE", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE"]
    asked = ["ssh", "delete", "create", "ssh"]
    assert train_on_tpus(gcloud, states, [255, 255, DONE]) == (DONE, asked)


def test_tpus_that_cannot_be_had_are_not_asked_for_again(gcloud):
    assert train_on_tpus(gcloud, ["FAILED"], [DONE]) == (1, [])


def test_tpus_need_a_project_and_a_disk(gcloud):
    for missing in NEEDED:
        settings = {name: value for name, value in NEEDED.items() if name != missing}
        assert gcloud.run("bash", LAUNCH / "tpu_queued_resources.sh", **settings) != 0
    assert not gcloud.calls("gcloud")


def commands_of(module: str) -> list[list[str]]:
    """Returns the arguments of every start of a module, in the launch files' defaults and in the runbook."""
    texts = [re.sub(r"```bash\nALONE.*?```", "", RUNBOOK, flags=re.DOTALL)]  # that one is run below
    for name in FILES:
        defaults = variables(name)
        for run in re.findall(r'^RUN="(.*)"', (LAUNCH / name).read_text(), re.MULTILINE):
            defaults["RUN"] = run
        command = defaults["COMMAND"]
        while "$" in command:
            command = re.sub(r"\$([A-Z_]+)", lambda match, values=defaults: values[match[1]], command)
        texts.append(command)
    pattern = rf"python -m {module} ([^`|#\n]+)"
    return [shlex.split(arguments) for text in texts for arguments in re.findall(pattern, text)]


def test_label_commands_are_accepted():
    commands = commands_of("epfv2_jax.pseudo_label")
    verbs = [arguments[0] for arguments in commands]
    assert {"plan", "run", "status", "verify"} <= set(verbs) and verbs.count("run") == 2
    for arguments in commands:
        pseudo_label.parser().parse_args(arguments)


@pytest.mark.parametrize("module, least", [(train, 4), (dry_run, 1)])
def test_train_commands_are_accepted(module, least, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = commands_of(module.__name__)
    assert len(commands) >= least
    for arguments in commands:
        recipe.from_arguments(ExperimentConfig, module.parser().parse_args(arguments))


def test_convert_command_is_accepted(monkeypatch, capsys):
    def called(*args, **kwargs):
        raise ValueError("arrived")

    monkeypatch.setattr(conversion, "convert", called)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    (arguments,) = commands_of("epfv2_jax.convert")
    assert convert.main([*arguments, "--count", "4"]) == exits.ERROR
    assert "arrived" in capsys.readouterr().err


@pytest.mark.parametrize("code, expected", [(DONE, DONE), (BAD_ROWS, DONE), (ERROR, ERROR)])
def test_the_runbook_labels_on_queued_resources(gcloud, code, expected):
    (block,) = re.findall(r"```bash\n(ALONE.*?)```", RUNBOOK, re.DOTALL)
    (gcloud.folder / "launch").symlink_to(LAUNCH)
    (gcloud.folder / "states").write_text("ACTIVE\n")
    gcloud.command("curl", 'grep -c "^curl " "$LOG"')  # another index on each worker
    gcloud.write(gcloud.folder / ".venv/bin/python", f'echo "python $TPU_VISIBLE_CHIPS $*" >> "$LOG"\nexit {code}')
    assert gcloud.run("bash", "-c", block, **NEEDED, SETUP="true", DIRECTORY=str(gcloud.folder)) == expected
    calls = gcloud.calls("python")
    shares = [pseudo_label.parser().parse_args(shlex.split(call)[4:]) for call in calls]
    assert [(share.index, share.count) for share in shares] == [(1, 4), (2, 4)]
    assert all(call.startswith("python 0,1,2,3 ") for call in calls)


def test_the_runbook_names_what_exists():
    for path in re.findall(r"(?:launch|tests|configs)/[a-z_0-9./]*[a-z_0-9]", RUNBOOK):
        assert (ROOT / path).exists(), path
    elsewhere = {"another task died", "unhealthy", "heartbeat timeout", "Barrier timed out", "RESOURCE_EXHAUSTED"}
    elsewhere |= {"OOMKilled", "ReachedMaxRestarts"}  # of JAX and Kubernetes
    sources = "".join(path.read_text() for path in (ROOT / "epfv2_jax").rglob("*.py"))
    table = RUNBOOK.split("## What goes wrong")[1].split("##")[0]
    messages = [m for line in table.splitlines()[4:] for m in re.findall("`([^`]+)`", line.partition(" | ")[0])]
    assert len(messages) > 12
    for message in messages:
        for part in message.split("..."):
            assert message in elsewhere or part.strip() in sources, f"{part!r} is nowhere in the package"
