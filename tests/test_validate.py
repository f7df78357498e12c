"""The command `validate`: what it prints and draws, and its exit codes."""

import pytest
import recordings
from PIL import Image

from epfv2_jax import convert, validate


def run(capsys, *words):
    code = validate.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_recordings_and_their_records(tmp_path, capsys):
    recordings.write(tmp_path / "raw", recordings.FRONT, frames=4)
    code, printed, _ = run(capsys, tmp_path / "raw", "--pictures", tmp_path / "pictures")
    assert code == 0 and printed.startswith("train/a\nverdict  check ")
    for view in ("left", "right"):
        path = tmp_path / "pictures" / f"train_a_{view}.png"
        assert f"picture: {path}" in printed
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(1 << 20)
        assert any(blue > red + 80 for _, (red, _, blue) in colours), "no skeleton over the grey image"
    flags = ("--reader", "recording", "--source", tmp_path / "raw", "--out", tmp_path / "out", "--image_size", "32")
    assert convert.main(list(map(str, flags))) == 0
    capsys.readouterr()
    for folder in (tmp_path / "out", tmp_path / "out" / "train"):
        code, printed, _ = run(capsys, folder, "--pictures", tmp_path / "again")
        assert code == 0 and "train/a" in printed and "in_view" in printed


def test_without_truth_the_rest_pose_is_drawn(tmp_path, capsys):
    recordings.write(tmp_path / "raw", recordings.ONE, frames=2)
    assert run(capsys, tmp_path / "raw", "--pictures", tmp_path)[0] == 0
    with Image.open(tmp_path / "train_a_centre.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert any(blue > red + 80 for _, (red, _, blue) in colours)


def test_errors_end_with_code_1_and_the_problem_by_name(tmp_path, capsys):
    recordings.write(tmp_path, recordings.FRONT, 3, "train", "a")
    bad = recordings.write(tmp_path, recordings.FRONT, 3, "train", "b")
    recordings.edit_numbers(bad / "joints0/data.csv", lambda values: 100 * values)
    worse = recordings.write(tmp_path, recordings.FRONT, 3, "test", "c")
    (worse / "gt/data.csv").write_text("")
    code, printed, _ = run(capsys, tmp_path, "--pictures", tmp_path / "pictures")
    assert code == 1 and printed.endswith("2 sequences have errors: train/b, test/c\n")
    assert "error: the body is 100 times as large as a grown person" in printed
    assert f"error: {worse / 'gt/data.csv'}: rows: there are none" in printed


def test_zips_of_egobody3m(new_egobody3m_zips, tmp_path, capsys):
    code, printed, _ = run(capsys, new_egobody3m_zips, "--pictures", tmp_path / "pictures")
    assert "calibration" in printed and "left_side: good, rms" in printed and code == 0, printed
    assert len(list((tmp_path / "pictures").iterdir())) == 4


def test_what_cannot_be_checked(tmp_path, capsys):
    code, _, told = run(capsys, tmp_path / "absent")
    assert code == 1 and "absent" in told
    assert run(capsys, tmp_path, "--frames", "0")[0] == 2
    code, _, told = run(capsys, tmp_path, "--reader", "egobody")
    assert code == 1 and "reader: 'egobody' is not one of" in told and "did you mean egobody3m?" in told


@pytest.fixture
def new_egobody3m_zips(tmp_path):
    """A synthetic sequence in the layout of EgoBody3M."""
    from epfv2_jax.data.synthetic import config, writer

    settings = config.SyntheticConfig(
        train_sequences=1, validation_sequences=0, test_sequences=0, frames=12, image_width=20
    )
    writer.write_dataset(settings, tmp_path / "zips")
    return tmp_path / "zips"
