"""A task that only images can solve: people who stand still and move their arms, all with the same headset pose."""

import os
import pathlib
import subprocess
import sys

import pytest

DRIVER = pathlib.Path(__file__).with_name("only_images_driver.py")


def wrist_ratio(view_dropout: float, steps: int) -> float:
    """Returns the wrists' error after `steps` relative to the mean pose's, on people whom training did not show."""
    # One device and the compiler's usual settings: the run computes more than it compiles.
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(view_dropout), str(steps)],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


@pytest.mark.slow
def test_the_model_finds_hands_that_only_the_images_show():
    assert wrist_ratio(view_dropout=0.0, steps=250) <= 0.5  # about a minute on two cores


@pytest.mark.slow
def test_without_images_nobody_finds_them():
    assert wrist_ratio(view_dropout=1.0, steps=50) > 0.85
