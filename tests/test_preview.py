"""The command `preview`: the page shows what the data hold, and the labels where they are."""

import base64
import io
import re

import numpy as np
import pytest
import recordings
from PIL import Image

from epfv2_jax import convert, preview
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel.identity import identify_records
from epfv2_jax.core import exits
from epfv2_jax.data import labels, records, validation
from epfv2_jax.viz import poses
from epfv2_jax.viz import preview as page

LABEL_M = np.array([0.03, 0.0, 0.0])


def run(capsys, *words):
    code = preview.main([str(word) for word in words])
    return code, capsys.readouterr().out


def pictures(text):
    """Returns the pictures of a page as arrays."""
    found = re.findall(r'src="data:image/webp;base64,([^"]*)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int) for data in found]


def share(picture, color):
    """Returns the share of the pixels whose colour is nearly `color`."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(picture - rgb).max(-1) < 40).mean()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of two sequences, their records, and labels 3 cm to the left of the joints; two are missing."""
    folder = tmp_path_factory.mktemp("preview")
    for name in "ab":
        recordings.write(folder / "raw", recordings.FRONT, 4, "train", name)
    flags = ("--reader", "recording", "--source", folder / "raw", "--out", folder / "records", "--image_size", "32")
    assert convert.main(list(map(str, flags))) == exits.DONE
    data = records.open_records(folder / "records" / "train")
    teacher = labels.TeacherIdentity(sha256="0" * 64, step=3, model={}, with_uncertainty=True)
    plan = plan_lib.Plan(
        package_version="1",
        records=identify_records(data),
        teacher=teacher,
        config=plan_lib.PassConfig(unit_frames=8),
        units=np.array([[0, 2, 8]]),
        streams=np.array([[0, 2, 0, 0]]),
    )
    plan = plan_lib.write_plan(folder / "labels", plan)
    (folder / "labels" / labels.UNIT_FOLDER).mkdir()
    runs = [label_run(plan.sha256, i, data[i]) for i in range(2)]
    labels.write_unit(folder / "labels" / labels.UNIT_FOLDER / labels.unit_file(0), 0, runs, [])
    return folder


def label_run(plan_sha256, record, truth):
    T, n, J = truth.T_world_headset, truth.num_frames, truth.num_joints
    joints_m = np.einsum("nji,nkj->nki", T[:, :3, :3], truth.joints_world_m - T[:, None, :3, 3]) + LABEL_M
    arrays = {name: np.zeros(shape, np.float32) for name, shape in labels.row_shapes(J, n).items()}
    arrays |= {"joints_headset_m": joints_m.astype(np.float32), "cholesky6_m": arrays["cholesky6_m"] + np.float32(0.02)}
    return labels.LabelRun(
        plan_sha256=plan_sha256,
        teacher_sha256="0" * 64,
        record=record,
        sequence=truth.sequence,
        split=truth.split,
        frame_index=truth.frame_index,
        status=np.array([0, 0, 0, labels.Status.NON_FINITE], np.uint8),
        **arrays,
    )


def test_recordings_show_cameras_joints_and_counts(folder, capsys):
    out = folder / "pages" / "raw.html"
    code, printed = run(capsys, folder / "raw", "--frames", "2", "--out", out)
    assert code == exits.DONE and printed.splitlines()[-1] == f"page: {out}"
    text = out.read_text()
    assert "<b>2</b><span>sequences</span>" in text and "<b>26</b><span>joints</span>" in text
    assert "<h3>a</h3><p>4 frames read; " in text and "<td>4.0, 2.0, 3.0</td><td>15, 50</td>" in text
    first, second = pictures(text)
    for picture in (first, second):
        assert share(picture, poses.TRUTH_COLOR) > 0.002 and share(picture, poses.PREDICTION_COLOR) == 0


def test_records_show_the_same_and_as_many_sequences_as_asked(folder, capsys):
    out = folder / "pages" / "records.html"
    code, _ = run(capsys, folder / "records", "--sequences", "1", "--frames", "1", "--out", out)
    text = out.read_text()
    assert code == exits.DONE and len(pictures(text)) == 1
    assert "<b>2</b><span>sequences</span>" in text and "<b>8</b><span>frames</span>" in text


def test_labels_are_drawn_beside_the_joints_of_the_data(folder, capsys):
    out = folder / "pages" / "labels.html"
    words = (folder / "records" / "train", "--labels", folder / "labels", "--sequences", "1", "--frames", "1")
    assert run(capsys, *words, "--out", out)[0] == exits.DONE
    text = out.read_text()
    assert "<b>6</b><span>labels ok</span>" in text and "<b>2</b><span>labels non finite</span>" in text
    (picture,) = pictures(text)
    assert share(picture, poses.PREDICTION_COLOR) > 0.002 and share(picture, poses.TRUTH_COLOR) > 0.0005


def test_each_frame_says_what_is_known_of_it_and_of_its_label(folder):
    data = folder / "records" / "train"
    (sequence, _) = validation.open_sequences(data, None)
    checked = validation.check(sequence, 300)
    found = page._Labels(folder / "labels", data).of("a")
    words, example = page._frame(checked.runs[0], 0, checked, found)
    label = "label ok, 3.0 cm from the joints of the data, scale 2.8 cm"
    assert words.endswith(f"26 of 26 joints known, 2 of 2 images, {label}")
    offset_m = example.joints_headset_m - example.true_joints_headset_m
    np.testing.assert_allclose(offset_m, np.broadcast_to(LABEL_M, offset_m.shape), atol=1e-5)
    words, example = page._frame(checked.runs[0], 3, checked, found)
    assert words.endswith("label non finite") and np.isnan(example.joints_headset_m).all()


def test_what_a_check_finds_is_on_the_page_and_in_the_exit_code(tmp_path, capsys):
    bad = recordings.write(tmp_path / "raw", recordings.FRONT, 3, "train", "b")
    recordings.edit_numbers(bad / "joints0/data.csv", lambda values: 100 * values)
    out = tmp_path / "page.html"
    code, printed = run(capsys, tmp_path / "raw", "--frames", "1", "--out", out)
    assert code == exits.PARTIAL and printed.startswith("train/b: error: ") and "<li>error: " in out.read_text()


def test_labels_of_other_records_are_refused(folder, tmp_path, capsys):
    recordings.write(tmp_path / "raw", recordings.FRONT, 3, "train", "c")
    flags = ("--reader", "recording", "--source", tmp_path / "raw", "--out", tmp_path / "out", "--image_size", "32")
    assert convert.main(list(map(str, flags))) == exits.DONE
    words = [str(tmp_path / "out" / "train"), "--labels", str(folder / "labels"), "--out", str(tmp_path / "page.html")]
    assert preview.main(words) == exits.ERROR
    assert "the labels are not of " in capsys.readouterr().err and not (tmp_path / "page.html").exists()
