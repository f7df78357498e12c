"""The completion script, run by bash itself."""

import shutil
import subprocess

import pytest

from epfv2_jax import __main__ as listing
from epfv2_jax.core import exits

# Prints what bash offers for the last of the words "$@".
TRY = """
source "$0"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_shtab_epfv2
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not on this machine")
def test_bash_completes_commands_flags_fields_and_choices(tmp_path, capsys):
    assert listing.main(["--print-completion", "bash"]) == exits.DONE
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)

    def offered(*words):
        done = subprocess.run(
            ["bash", "-c", TRY, script, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return set(done.stdout.split())

    assert offered("epfv2", "") >= set(listing.COMMANDS)
    assert offered("epfv2", "predict", "--format", "") == {"npz", "parquet"}
    assert offered("epfv2", "predict", "--data", "comp") == {"completion"}  # a file of this folder
    assert "--coordinator_address" in offered("epfv2", "train", "--c")
    assert offered("epfv2", "train", "--config.optimizer.kind", "") == {"adamw", "muon"}
    assert "--config.model.points" in offered("epfv2", "train", "--config.model.p")  # of a kind that is no default
    assert offered("epfv2", "pseudo_label", "run", "--engine", "") == {"local", "index", "ray"}


def test_an_unknown_shell_is_one_line(capsys):
    for arguments in (["csh"], []):
        with pytest.raises(SystemExit) as ended:
            listing.main(["--print-completion", *arguments])
        assert ended.value.code == exits.USAGE
        assert capsys.readouterr().err.startswith("error: shell: ")
