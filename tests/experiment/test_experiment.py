"""Recipes: every shipped one is valid, a wrong one is refused by name, and one runs from nothing to pictures."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import re
import types

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints, models
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import sharding
from epfv2_jax.data.synthetic import renderer
from epfv2_jax.evaluation import evaluate
from epfv2_jax.evaluation.evaluate import MEAN_POSE, VIEWS_HIDDEN
from epfv2_jax.experiment import auto_label, build, data, score, share, train
from epfv2_jax.experiment import config as experiment
from epfv2_jax.experiment import recipe as recipe_lib
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.testing.fakes import fake_batch
from epfv2_jax.training import augment

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"


def recipe(name, *args) -> dict:
    return recipe_lib.read(":".join([str(CONFIGS / f"{name}.py"), *args]))


SHIPPED = [
    ("quickstart",),
    ("quickstart", "headset_only"),
    *(("synthetic", f"cpu-{ablation}") for ablation in ("no_temporal", "no_projection", "keypoints", "no_auxiliary")),
    *(("synthetic", variant) for variant in ("cpu", "short", "gpu", "cpu-no_uncertainty", "gpu-headset_only")),
    ("egobody3m_resnet18",),
    ("egobody3m_mobilenetv4",),
    *(("teacher_dinov3_vit", variant) for variant in ("s16", "s16plus", "b16", "l16")),
    ("mocap", "full"),
    ("mocap", "no_temporal"),
    ("mocap", "no_projection"),
    *(("student_egobody3m", variant) for variant in ("resnet18", "mobilenetv4")),
    *(("own_headset", size) for size in ("cpu", "tiny")),
    *(("baselines/lstm", size) for size in ("cpu", "short", "gpu")),
    *(
        (f"baselines/{name}", variant)
        for name in ("epfv1", "unrealego")
        for variant in ("heatmap-cpu", "pose-cpu", "heatmap-short", "pose-short", "heatmap-gpu", "pose-gpu")
    ),
]


def test_every_shipped_recipe_is_in_the_list():
    found = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.py")}
    assert found == {name for name, *_ in SHIPPED} | {"als_quickstart", "common"}


def test_the_shipped_auto_labelling_recipe_is_valid():
    config = config_lib.from_mapping(auto_label.AutoLabelConfig, recipe("als_quickstart", "3"))
    students = auto_label.students(config.student)
    assert len({student.output_dir for student in students.values()}) == 3
    assert {student.step.steps for student in students.values()} == {config.student.step.steps}
    assert students["without_als"].data.pseudo is None and students["als"].objective.distillation_weight == 0
    assert config.student.data.pseudo.directory == f"{config.unlabelled.directory}/{config.student.data.split}"


@pytest.mark.parametrize("args", SHIPPED, ids=":".join)
def test_shipped_recipes_are_valid(args):
    config = experiment.parse(recipe(*args))
    assert config.dataset.conversion.record_frames >= config.evaluation.clip_frames  # else clips are cut short
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    sharding.check_batch_size(config.data.batch_size, config.step.accumulation, mesh)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": {}}, r"config\.optimiser: unknown key; did you mean optimizer"),
        ({"model": {"encoder": "resnet19"}}, r"config\.model: encoder: 'resnet19' is not one of .*'resnet18'"),
        ({"model": {"windw": 3}}, r"config\.model\.windw: unknown key; did you mean window"),
        ({"data": {"batch_size": 0}}, r"config\.data: batch_size: must be at least 1, got 0"),
        ({"step": {"steps": 1.5}}, r"config\.step\.steps: expected int, got 1.5"),
    ],
)
def test_a_wrong_recipe_is_refused_by_key(change, message):
    with pytest.raises(ValueError, match=message):
        experiment.parse({**recipe("quickstart"), **change})


def tiny(tmp_path) -> experiment.ExperimentConfig:
    """The quickstart, shrunk until only its shape is left."""
    mapping = recipe("quickstart")
    mapping["output_dir"] = str(tmp_path / "run")
    mapping["dataset"] |= {"directory": str(tmp_path / "records"), "source_directory": str(tmp_path / "zips")}
    mapping["dataset"]["synthetic"] |= {"train_sequences": 2, "validation_sequences": 1, "test_sequences": 1}
    mapping["dataset"]["synthetic"] |= {"frames": 64, "image_width": 40}
    mapping["dataset"]["conversion"] |= {"image_size_hw": (16, 16), "doubtful": "keep"}
    mapping["data"] |= {"clip_frames": 4, "batch_size": 8, "warmup": {"steps": 2, "clip_frames": 1, "batch_size": 8}}
    mapping["model"] |= {"encoder": "tiny", "width": 16, "heads": 2, "ffn_width": 16, "head_width": 16}
    mapping["step"]["steps"] = 4
    mapping["loop"] = {"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2}
    mapping["evaluation"] = {"pictures": 2}
    return experiment.parse(mapping)


@pytest.mark.slow
def test_from_nothing_to_pictures_and_again(tmp_path):
    config = tiny(tmp_path)
    data.prepare_data(config.dataset)
    train.train(config)
    result = score.evaluate(config.output_dir, config.dataset.directory, tmp_path / "evaluation")
    assert np.isfinite(result.metrics["mpjpe_cm"])
    assert len(result.baselines) == 2 + layout.EGOBODY3M.num_views
    assert all(np.isfinite(baseline["mpjpe_cm"]) for baseline in result.baselines.values())
    written = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert written["metrics"]["mpjpe_cm"] == result.metrics["mpjpe_cm"]
    page = (tmp_path / "evaluation" / "index.html").read_text()
    # The test sequence has 64 frames, so it is two records: two clips, and a picture of each.
    assert page.count("data:image/webp") == 2
    assert "<h2>Training</h2>" in page and "run on the test split" in page and "1 sequences, 64 frames" in page

    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    rates = [line["learning_rate"] for line in map(json.loads, lines.splitlines()) if "loss" in line]
    assert len(rates) == 4 and rates[0] == 0 < rates[1]
    data.prepare_data(config.dataset)
    train.train(config)  # nothing is left to do
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


@pytest.mark.slow
def test_a_run_without_images_is_scored_without_images(tmp_path):
    config = tiny(tmp_path)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, body="keypoints"),  # a body that compiles fast
        augment=dataclasses.replace(config.augment, view_dropout=1.0),
        evaluation=dataclasses.replace(config.evaluation, hide_views=True, pictures=1),
    )
    result = train.train_and_evaluate(config)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert len(losses) == 4 and np.isfinite(losses).all() and logged[-1].get("skipped", 0) == 0
    assert list(result.baselines) == [MEAN_POSE]
    assert not result.worst[0].view_valid.any()

    trained = checkpoints.load(config.checkpoint_dir)
    seeing = dataclasses.replace(config.evaluation, hide_views=False)
    splits = {name: data.open_split(config.dataset.directory, name) for name in ("validation", "test")}

    def scored(evaluation, split, **baselines):
        return evaluate.score(trained.model, trained.variables, splits[split], evaluation, **baselines)

    pose = np.zeros((trained.model.skeleton.num_joints, 3))
    ablated = scored(seeing, "test", mean_pose_headset_m=pose)
    assert ablated.baselines[VIEWS_HIDDEN] == result.metrics  # the same program on the same frames
    assert ablated.metrics != result.metrics
    plain = dataclasses.replace(seeing, ablate_views=False)
    assert list(scored(plain, "test", mean_pose_headset_m=pose).baselines) == [MEAN_POSE]
    assert scored(seeing, "test").baselines == {}  # as in the evaluations during training
    best = min(line["validation/mpjpe_cm"] for line in logged if "validation/mpjpe_cm" in line)
    assert scored(config.evaluation, "validation").metrics["mpjpe_cm"] == pytest.approx(best, rel=1e-5)


def rendering_in_the_loop(tmp_path):
    config = tiny(tmp_path)
    synthetic = dataclasses.replace(config.dataset.synthetic, train_sequences=0, frames=8)
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, synthetic=synthetic))


def test_a_run_that_renders_its_clips_warms_up_and_resumes_anywhere(tmp_path):
    config = rendering_in_the_loop(tmp_path)
    data.prepare_data(config.dataset)
    assert not (tmp_path / "records" / "train").exists()
    training = data.open_training(config)
    mesh = sharding.make_mesh(config.mesh)

    def batches(start, count):
        stream = data.open_stream(config, mesh, model_of(config), training, start)
        with contextlib.closing(stream.batches):
            return list(itertools.islice(stream.batches, count))

    seen = batches(0, 4)
    assert [b.batch.frames.frame_valid.shape for b in seen] == [(8, 1), (8, 1), (8, 4), (8, 4)]
    for start in range(4):  # within the warm-up, and after it
        jax.tree.map(np.testing.assert_array_equal, batches(start, 1)[0], seen[start])


def test_a_run_without_images_trains_on_the_same_batches_and_renders_none(tmp_path, monkeypatch):
    config = rendering_in_the_loop(tmp_path)
    data.prepare_data(config.dataset)
    training = data.open_training(config)
    mesh = sharding.make_mesh(config.mesh)
    hidden = dataclasses.replace(config.augment, view_dropout=1.0)

    def first(config):
        stream = data.open_stream(config, mesh, model_of(config), training, 0)
        with contextlib.closing(stream.batches):
            return stream.label(next(stream.batches))

    def augmented(batch):
        return augment.augment(jax.random.key(0), batch, hidden, training.skeleton, training.layout)

    rendered = first(config)
    assert rendered.frames.images.any()
    monkeypatch.setattr(renderer, "render", None)
    black = first(dataclasses.replace(config, augment=hidden))
    assert not black.frames.images.any()
    jax.tree.map(np.testing.assert_array_equal, augmented(black), augmented(rendered))


def test_rendering_in_the_loop_needs_something_to_render():
    mapping = recipe("egobody3m_resnet18")
    mapping["data"] |= {"source": "synthetic"}
    with pytest.raises(ValueError, match=r"data.source = 'synthetic' needs dataset.synthetic"):
        experiment.parse(mapping)


def test_data_that_is_nowhere_is_a_clear_error(tmp_path):
    dataset = experiment.DatasetConfig(directory=str(tmp_path / "a"), source_directory=str(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"dataset.directory .*a does not exist, nor do zips .*b\); download"):
        data.prepare_data(dataset)


def take_two_steps(config, image_size_hw, T):
    """Returns (state before, state after) two steps at batch 1: the first of the warm-up has learning rate zero."""
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    batch = fake_batch(B=1, T=T, image_hw=image_size_hw)
    trainable = build.trainable_for(config, mesh, model_of(config), batch.frames)
    state = build.initial_state(config, trainable)
    before = jax.device_get(state)
    for _ in range(2):
        state, metrics = trainable.step_fn(state, sharding.put_batch(batch, mesh), trainable.root_key())
        assert np.isfinite(metrics["loss"])
    assert int(state.step) == 2
    return before, jax.device_get(state)


def model_of(config):
    """Returns the model of a configuration for EgoBody3M's joints and views."""
    return models.build(config.model, skeleton.EGOBODY3M, layout.EGOBODY3M)


def trainable_of(config):
    """Returns (trainable on one device, a batch) of a configuration at reduced size."""
    batch = fake_batch(B=1, T=4, image_hw=(16, 16))
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    return build.trainable_for(config, mesh, model_of(config), batch.frames), sharding.put_batch(batch, mesh)


def with_keypoints(config):
    """Returns a configuration with the body that compiles fastest."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, body="keypoints"))


@pytest.fixture(scope="module")
def trainable(tmp_path_factory):
    """The compiled parts of `with_keypoints(tiny(...))`: folders and the weights to start from are no part of them."""
    return trainable_of(with_keypoints(tiny(tmp_path_factory.mktemp("trainable"))))[0]


def test_a_run_starts_from_imported_weights(trainable, tmp_path):
    config = with_keypoints(tiny(tmp_path))
    start = trainable.initial_state()
    rng = np.random.default_rng(0)
    variables = {
        name: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree["encoder"])
        for name, tree in (("params", start.params), ("batch_stats", start.batch_stats))
    }
    checkpoints.save_encoder(tmp_path / "weights", "tiny", variables, {})
    config = dataclasses.replace(config, encoder_weights=str(tmp_path / "weights"))
    state = build.initial_state(config, trainable)
    for tree, expected in (
        (state.params, variables["params"]),
        (state.ema_params, variables["params"]),
        (state.batch_stats, variables["batch_stats"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, tree["encoder"], expected)
    assert not moved(start.params["refinement_head"], state.params["refinement_head"])

    other = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder="small"))
    with pytest.raises(ValueError, match=r"holds 'tiny', but the model's encoder is 'small'"):
        build.initial_state(other, trainable_of(other)[0])
    wider = dataclasses.replace(config, encoder_weights=str(tmp_path / "wider"))
    variables["params"]["conv1"]["kernel"] = np.zeros((7, 7, 3, 32), np.float32)
    checkpoints.save_encoder(tmp_path / "wider", "tiny", variables, {})
    shapes = re.escape("wider: params/encoder['conv1']['kernel']: (7, 7, 3, 32) there, (7, 7, 1, 32) in the model")
    with pytest.raises(ValueError, match=shapes):
        build.initial_state(wider, trainable)


def save_run(trained, directory, trainable, seed):
    """Saves random weights as the only checkpoint of a run; returns them."""
    rng = np.random.default_rng(seed)
    state = trainable.abstract_state
    variables = {
        name: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)
        for name, tree in (("params", state.params), ("batch_stats", state.batch_stats))
    }
    model = trainable.model
    about = checkpoints.About(
        experiment=config_lib.to_mapping(trained), skeleton=model.skeleton, layout=model.layout, image_size_hw=(16, 16)
    )
    checkpoints.save_model(directory, about, variables, {"file": "f.safetensors"})
    return variables


def test_a_run_starts_from_the_weights_of_another(trainable, tmp_path):
    config = with_keypoints(tiny(tmp_path))
    variables = save_run(config, tmp_path / "other", trainable, 0)
    np.testing.assert_equal(checkpoints.load(tmp_path / "other").variables, variables)
    with pytest.raises(ValueError, match="other: exists"):
        save_run(config, tmp_path / "other", trainable, 1)

    share.package(tmp_path / "other", tmp_path / "packaged")
    for source in ("other", "packaged"):
        config = dataclasses.replace(config, init_from=str(tmp_path / source))
        state = build.initial_state(config, trainable)
        for tree, name in ((state.params, "params"), (state.ema_params, "params"), (state.batch_stats, "batch_stats")):
            jax.tree.map(np.testing.assert_array_equal, tree, variables[name])

    config = dataclasses.replace(config, init_modules=("encoder", "refinement_head"))
    state, fresh = build.initial_state(config, trainable), trainable.initial_state()
    for tree, new, name in (
        (state.params, fresh.params, "params"),
        (state.ema_params, fresh.params, "params"),
        (state.batch_stats, fresh.batch_stats, "batch_stats"),
    ):
        for module in tree:
            expected = (variables[name] if module in config.init_modules else new)[module]
            jax.tree.map(np.testing.assert_array_equal, tree[module], expected)


def test_weights_that_do_not_fit_are_refused(trainable, tmp_path):
    config = with_keypoints(tiny(tmp_path))
    save_run(config, tmp_path / "other", trainable, 0)
    config = dataclasses.replace(config, init_from=str(tmp_path / "other"))

    unknown = dataclasses.replace(config, init_modules=("encoder", "refinement_heat"))
    with pytest.raises(ValueError, match=r"a module of the model: 'refinement_heat' is not.*refinement_head"):
        build.initial_state(unknown, trainable)
    wide = dataclasses.replace(config.model, width=2 * config.model.width)
    wider, _ = trainable_of(dataclasses.replace(config, model=wide))
    with pytest.raises(ValueError, match=r"init_from: .*other: params/.* there, .* in the model of this run"):
        build.initial_state(config, wider)
    views = dataclasses.replace(layout.EGOBODY3M, name="others")
    turned = dataclasses.replace(trainable, model=models.build(config.model, skeleton.EGOBODY3M, views))
    with pytest.raises(ValueError, match="other joints or views; name in init_modules"):
        build.initial_state(config, turned)
    build.initial_state(dataclasses.replace(config, init_modules=("encoder",)), turned)
    with pytest.raises(ValueError, match="init_modules names modules of init_from, which is not given"):
        dataclasses.replace(config, init_from=None, init_modules=("encoder",))


@pytest.mark.slow
@pytest.mark.parametrize(("encoder_train", "expected"), [("weights", (True, False)), ("none", (False, False))])
def test_what_training_may_change_in_the_encoder(tmp_path, encoder_train, expected):
    config = tiny(tmp_path)
    changes = {"encoder_train": encoder_train, "body": "keypoints"}  # a body that compiles fast
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    trainable, batch = trainable_of(config)
    before = jax.device_get(trainable.initial_state())
    state = trainable.initial_state()
    for _ in range(2):
        state, _ = trainable.step_fn(state, batch, trainable.root_key())
    changed = tuple(
        moved(old["encoder"], new["encoder"])
        for old, new in ((before.params, state.params), (before.batch_stats, state.batch_stats))
    )
    assert changed == expected
    assert moved(before.params["refinement_head"], state.params["refinement_head"])


def moved(before, after):
    """Returns whether any leaf of a tree changed."""
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)))


@pytest.mark.slow
def test_the_benchmark_recipe_takes_a_step_on_fake_images():
    config = experiment.parse(recipe("egobody3m_resnet18"))
    before, after = take_two_steps(config, config.dataset.conversion.image_size_hw, config.data.clip_frames)
    assert moved(before.params["encoder"], after.params["encoder"])
    assert moved(before.params["refinement_head"], after.params["refinement_head"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [("egobody3m_mobilenetv4",), ("teacher_dinov3_vit", "s16plus"), ("teacher_dinov3_vit", "b16")],
    ids=":".join,
)
def test_recipes_with_imported_encoders_take_a_step_at_reduced_size(args):
    before, after = take_two_steps(experiment.parse(recipe(*args)), (32, 32), 2)
    assert moved(before.params["encoder"], after.params["encoder"])
    assert moved(before.params["refinement_head"], after.params["refinement_head"])


@pytest.mark.parametrize(("name", "other"), [("frame_s", 1 / 10), ("image_size_hw", (8, 8))])
def test_pseudo_labelled_records_of_another_kind_are_refused(name, other):
    kind = {"skeleton": skeleton.EGOBODY3M, "layout": layout.EGOBODY3M, "image_size_hw": (16, 16), "frame_s": 1 / 30}
    training = types.SimpleNamespace(directory="labelled", **kind)
    with pytest.raises(ValueError, match=f"unlabelled: its {name} is not that of the training records labelled"):
        data._check_same_kind(training, types.SimpleNamespace(directory="unlabelled", **{**kind, name: other}))
