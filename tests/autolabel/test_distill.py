"""Students: what they read from a label pass, the mix of labelled and pseudo-labelled clips, and the online teacher."""

import json
import shutil
import types

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints, models
from epfv2_jax.autolabel import distill
from epfv2_jax.core import files, sharding
from epfv2_jax.data import labels, pipeline, records
from epfv2_jax.experiment import config as experiment
from epfv2_jax.experiment import data

T = 8
LAYOUT = {f"s{i}": ((7 * i, T),) for i in range(6)}  # each sequence is one clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory, teacher_dir):
    """Where `make` puts what it makes, and the teacher."""
    return types.SimpleNamespace(folder=tmp_path_factory.mktemp("clips"), teacher=teacher_dir)


def make(clips, helpers):
    """Returns (records, labels) of sequences of one clip each, made once; an image of the first cannot be decoded."""
    if not (clips.folder / "records").exists():
        runs = helpers.make_runs(LAYOUT)
        broken = runs["s0"][0]
        jpegs = [list(frame) for frame in broken.jpegs]
        jpegs[3][1] = jpegs[3][1][: len(jpegs[3][1]) // 2]
        runs["s0"][0] = helpers.replace(broken, jpegs=tuple(map(tuple, jpegs)))
        helpers.write_records(clips.folder / "records", runs)
        helpers.label(clips.folder / "records", clips.teacher, clips.folder / "labels")
    opened = records.open_records(clips.folder / "records")
    return opened, labels.open_labels(clips.folder / "labels", opened)


def batch_of(opened, given=None, B=4, seed=0):
    config = pipeline.DataConfig(clip_frames=T, batch_size=B)
    batches = pipeline.train_batches(opened, config, seed=seed, labels=given)
    batch = next(batches)
    batches.close()
    return batch


def one(batch):
    """A generator of one batch."""
    yield batch


def test_a_batch_reads_the_labels_of_its_own_frames(clips, helpers):
    opened, given = make(clips, helpers)
    batch = batch_of(opened, given, B=6)
    index = pipeline.build_index(opened, T)
    for b, clip in enumerate(batch.clip_id):
        run = given[int(index.record[clip])]
        np.testing.assert_array_equal(batch.targets.joints_headset_m[b], run.joints_headset_m)
        np.testing.assert_array_equal(batch.targets.joint_valid[b], np.broadcast_to(run.ok[:, None], (T, 26)))
        np.testing.assert_array_equal(batch.targets.cholesky_m[b][run.ok], run.cholesky_m[run.ok])
    # The frame with the broken image is quarantined, and no other.
    assert (~batch.targets.joint_valid).any(axis=-1).sum() == 1


def test_a_mixed_batch_is_the_labelled_clips_and_then_the_others(clips, helpers):
    opened, given = make(clips, helpers)
    truth, pseudo = batch_of(opened, B=2), batch_of(opened, given, B=4, seed=1)
    batch = next(pipeline.mixed_batches(one(truth), one(pseudo), first_pseudo_clip_id=100))
    np.testing.assert_array_equal(batch.targets.pseudo, [False] * 2 + [True] * 4)
    np.testing.assert_array_equal(batch.clip_id, [*truth.clip_id, *(pseudo.clip_id + 100)])
    np.testing.assert_array_equal(batch.frames.images, np.concatenate([truth.frames.images, pseudo.frames.images]))
    np.testing.assert_array_equal(batch.targets.cholesky_m[2:], pseudo.targets.cholesky_m)
    np.testing.assert_array_equal(batch.targets.joint_valid[2:], pseudo.targets.joint_valid)


def test_closing_the_mix_closes_both_sources():
    closed = []

    def source(name):
        try:
            while True:
                yield None
        finally:
            closed.append(name)

    first, second = source("labelled"), source("pseudo")
    next(first), next(second)
    batches = pipeline.mixed_batches(first, second, first_pseudo_clip_id=0)
    with pytest.raises(AttributeError):  # None is no batch
        next(batches)
    assert closed == ["labelled", "pseudo"]


def test_unsure_joints_are_left_out(clips, helpers):
    opened, given = make(clips, helpers)
    truth, pseudo = batch_of(opened, B=2), batch_of(opened, given, B=4)
    sigma = np.sqrt((pseudo.targets.cholesky_m**2).sum((-2, -1)) / 3)[pseudo.targets.joint_valid]
    limit = float(np.median(sigma))
    assert sigma.min() < limit < sigma.max()
    batch = next(pipeline.mixed_batches(one(truth), one(pseudo), first_pseudo_clip_id=0, max_sigma_m=limit))
    kept = batch.targets.joint_valid[2:]
    assert kept.sum() == (sigma <= limit).sum()


@pytest.mark.parametrize("leave_out_half", [False, True])
def test_online_teacher_gives_the_targets_of_the_label_pass(clips, helpers, leave_out_half):
    opened, given = make(clips, helpers)
    truth = batch_of(opened, B=2)
    max_sigma_m = None
    if leave_out_half:
        sigma = np.sort(np.sqrt((batch_of(opened, given, B=6).targets.cholesky_m ** 2).sum((-2, -1)) / 3).ravel())
        max_sigma_m = float(sigma[len(sigma) // 2 :][:2].mean())
    offline = next(
        pipeline.mixed_batches(
            one(truth), one(batch_of(opened, given, B=6)), first_pseudo_clip_id=0, max_sigma_m=max_sigma_m
        )
    )
    unlabelled = next(pipeline.mixed_batches(one(truth), one(batch_of(opened, B=6)), first_pseudo_clip_id=0))
    online = distill.OnlineTeacher(checkpoints.load(clips.teacher), max_sigma_m=max_sigma_m)(unlabelled)
    np.testing.assert_array_equal(online.targets.joint_valid, offline.targets.joint_valid)
    np.testing.assert_array_equal(online.targets.pseudo, offline.targets.pseudo)
    valid = offline.targets.joint_valid
    assert valid[2:].any()
    for name in ("joints_headset_m", "cholesky_m"):
        given, expected = (np.asarray(getattr(batch.targets, name))[valid] for batch in (online, offline))
        np.testing.assert_allclose(given, expected, atol=1e-5, err_msg=name)
    # Labelled clips keep their truth.
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[:2], b[:2]),
        online.targets.replace(pseudo=None),
        unlabelled.targets.replace(pseudo=None),
    )


def test_a_teacher_without_uncertainty_teaches_poses_only(clips, helpers, tmp_path):
    opened, _ = make(clips, helpers)
    silent = shutil.copytree(clips.folder / "labels", tmp_path / "silent")
    plan = json.loads((silent / labels.PLAN_NAME).read_text())
    plan["teacher"]["with_uncertainty"] = False
    (silent / labels.PLAN_NAME).write_text(json.dumps(files.signed(files.without_checksum(plan))))

    def stream(given, distillation_weight=0.1, max_sigma_m=None, uncertainty=True):
        pseudo = {"directory": str(opened.directory), "labels": str(given), "max_sigma_m": max_sigma_m}
        config = {
            "output_dir": str(tmp_path),
            "dataset": {"directory": str(clips.folder)},
            "data": {"clip_frames": T, "batch_size": 2, "pseudo": pseudo},
            "model": {**helpers.CONFIG, "uncertainty": uncertainty},
            "objective": {"distillation_weight": distillation_weight},
            "step": {"steps": 1},
        }
        parsed = experiment.parse(config)
        model = models.build(parsed.model, opened.skeleton, opened.layout)
        data.open_stream(parsed, sharding.make_mesh(parsed.mesh), model, opened, 0).batches.close()

    stream(clips.folder / "labels", max_sigma_m=0.1)
    stream(silent, distillation_weight=0.0)
    stream(silent, uncertainty=False)
    for wrong in ({}, {"distillation_weight": 0.0, "max_sigma_m": 0.1}):
        with pytest.raises(ValueError, match=r"silent: this teacher states no uncertainty; set objective.distil"):
            stream(silent, **wrong)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "either labels"),
        ({"labels": "a", "teacher": "b"}, "either labels"),
        ({"labels": "a", "batch_size": 0}, "batch_size"),
        ({"labels": "a", "max_sigma_m": 0.0}, "max_sigma_m"),
    ],
)
def test_bad_values_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        pipeline.PseudoConfig(directory="d", **bad)
