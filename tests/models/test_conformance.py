"""What holds for every model of `MODELS`. Whoever adds a model gives it a small configuration in `SMALL`.

Besides the models of the package, all tests run on `Pooled`, a model that looks at each frame alone.
"""

import dataclasses
import functools
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from epfv2_jax import checkpoints, models, objectives
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import EGOBODY3M, JointGroup, Skeleton
from epfv2_jax.inference import streams
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.models import base
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.objectives.pose import PoseObjectiveConfig
from epfv2_jax.structs import Batch, Frames, Predictions, Targets
from epfv2_jax.testing import fakes
from epfv2_jax.training import augment, optim, state, step

#: A configuration of each kind that compiles fast. Histories should stay below eight frame times.
SMALL = {
    "epfv2": {"encoder": "tiny", "width": 16, "heads": 2, "ffn_width": 16, "head_width": 16, "window": 3},
    "epfv1": {
        "encoder": "tiny",
        "width": 16,
        "proposal_width": 16,
        "depth": 2,
        "heads": 2,
        "points": 4,
        "ffn_width": 16,
    },
    "lstm": {"encoder": "tiny", "view_width": 8, "width": 16, "head_width": 16},
    "pooled": {"width": 8},
    "unrealego": {
        "encoder": "tiny",
        "decoder_widths": (16,),
        "conv_widths": (32,),
        "dense_widths": (64,),
        "code_width": 64,
        "pose_width": 64,
    },
}
KINDS = [*models.MODELS, "pooled"]
PEOPLE, SIZE = 2, 16

#: A stick figure: few joints, a child before its parent, groups of its own.
FIVE_JOINTS = Skeleton(
    name="five",
    joint_names=("l_hand", "r_hand", "head", "chest", "hip"),
    parents=(3, 3, 3, 4, -1),
    mirror=(1, 0, 2, 3, 4),
    root_between=(4,),
    groups=(JointGroup(name="hands", joints=(0, 1)),),
    rest_offsets_m=((0.5, 0.0, 0.1), (-0.5, 0.0, 0.1), (0.0, 0.3, 0.0), (0.0, 0.4, 0.0), (0.0, 0.0, 0.0)),
    rest_root_headset_m=(0.0, -0.7, -0.1),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledConfig:
    """The settings of `Pooled`."""

    kind: str = "pooled"
    width: int = 32


class Pooled(base.SingleFrameModel):
    """The mean brightness of each view and the headset's tilt and height, through two layers, to keypoints."""

    config: PooledConfig
    skeleton: Skeleton
    layout: RigLayout

    @nn.compact
    def __call__(self, frames: Frames, train: bool = False) -> Predictions:
        base.check_frames(self, frames)
        frames = base.clean(frames)
        brightness = base.float_images(frames).mean((-1, -2))
        seen = jnp.concatenate([brightness, frames.T_world_headset[..., 1, :]], axis=-1)
        offsets_m = nn.Dense(3 * self.skeleton.num_joints)(nn.gelu(nn.Dense(self.config.width)(seen)))
        offsets_m = offsets_m.reshape(*seen.shape[:2], -1, 3)
        rest_m = self.skeleton.rest_joints_headset_m()
        return Predictions(joints_headset_m=offsets_m + jnp.broadcast_to(rest_m, offsets_m.shape))


@pytest.fixture(scope="module", autouse=True)
def table():
    """The package's models and `Pooled`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "pooled", Pooled)
        yield models.MODELS


def config_of(kind, **changes):
    (one_of,) = models.ModelConfig.__metadata__
    return one_of.convert({"kind": kind, **SMALL[kind], **changes}, "model")


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, frames):
    """What a model says about clips; compiled once for all models that are equal."""
    return model.apply(variables, frames)


@pytest.fixture(scope="module", params=KINDS)
def case(request, table, helpers):
    """A small model of each kind with random variables, a clip for it, and what the model says about the clip."""
    model = models.build(config_of(request.param), EGOBODY3M, fakes.TWO_VIEWS)
    num_frames = 10 * math.ceil(((model.history or 7) + 3) / 10)  # every chunk length divides it
    frames = with_losses(helpers.make_frames(PEOPLE, num_frames))
    variables = fakes.random_variables(model, frames)
    run = jax.jit(lambda frames, state: model.apply(variables, frames, state, method="step"))
    clip = apply(model, variables, frames)
    return types.SimpleNamespace(
        kind=request.param, model=model, variables=variables, frames=frames, run=run, clip=clip, num_frames=num_frames
    )


def with_losses(frames):
    """The frames as floats, with a view that drops out and frames that were lost."""
    view_valid, frame_gap = frames.view_valid.copy(), frames.frame_gap.copy()
    view_valid[0, 2:4, 1] = view_valid[1, 3] = False
    frame_gap[1, [2, 6]] = 2, 30
    images = frames.images.astype(np.float32) / 255
    return frames.replace(images=images, view_valid=view_valid, frame_gap=frame_gap)


def assert_close(a, b, atol=2e-5):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol), a, b)


def at(tree, where):
    """Every array of a tree at frames chosen by a slice or a mask."""
    return jax.tree.map(lambda x: np.asarray(x)[where], tree)


def changed_frames(frames, where):
    """Frames (B, T) that show and tell something else where the mask (T,) is True."""
    images = np.where(where[None, :, None, None, None], 1 - frames.images, frames.images)
    tilt = np.array([[1, 0, 0, 0], [0, 0.6, -0.8, 0.2], [0, 0.8, 0.6, 0], [0, 0, 0, 1]], np.float32)
    T_world_headset = np.where(where[None, :, None, None], frames.T_world_headset @ tilt, frames.T_world_headset)
    return frames.replace(images=images, T_world_headset=T_world_headset)


def moved(a, b):
    """How far the joints of two predictions lie apart in each frame (B, T)."""
    return np.abs(a.joints_headset_m - b.joints_headset_m).max((2, 3))


def test_every_model_of_the_package_has_a_small_configuration():
    assert set(SMALL) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_configuration_is_its_key_and_survives_json(kind):
    config = config_of(kind)
    assert config.kind == kind and dataclasses.replace(config).kind == kind
    assert config.__dataclass_params__.frozen
    (one_of,) = models.ModelConfig.__metadata__
    assert one_of.config_class(kind, "model")().kind == kind, "the defaults are those of another kind"
    back = one_of.convert(json.loads(json.dumps(config_lib.to_mapping(config))), "model")
    assert back == config and type(back) is type(config)
    with pytest.raises(ValueError, match=r"model\.no_such_field: unknown key"):
        one_of.convert({"kind": kind, "no_such_field": 1}, "model")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_a_value(kind):
    """Models are static under jit: two that are built alike are one."""
    first, second = (models.build(config_of(kind), EGOBODY3M, fakes.TWO_VIEWS) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert first != models.build(config_of(kind), FIVE_JOINTS, fakes.TWO_VIEWS)


@pytest.mark.parametrize(
    ("layout", "skeleton"), [(fakes.TWO_VIEWS, EGOBODY3M), (layouts.EGOBODY3M, FIVE_JOINTS)], ids=lambda x: x.name
)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_follow_the_skeleton_and_the_layout(kind, layout, skeleton, helpers):
    model = models.build(config_of(kind), skeleton, layout)
    B, T, V, J = 3, 4, layout.num_views, skeleton.num_joints
    frames = helpers.make_frames(B, T, num_views=V)
    variables = base.abstract_variables(model, frames)
    out = jax.eval_shape(model.apply, variables, frames)
    for joints in (out.joints_headset_m, *out.intermediate_joints_m.values()):
        assert (joints.shape, joints.dtype) == ((B, T, J, 3), jnp.float32)
    if out.distribution is not None:
        cholesky_m = out.distribution.cholesky_m
        assert (cholesky_m.shape, cholesky_m.dtype) == ((B, T, J, 3, 3), jnp.float32)
        assert out.distribution.degrees_of_freedom > 0
    for heatmaps in out.heatmaps.values():
        assert (heatmaps.shape[:3], heatmaps.ndim, heatmaps.dtype) == ((B, T, V), 6, jnp.float32)
    assert all(leaf.shape[:2] == (B, T) for leaf in jax.tree.leaves(out))

    # A stream's state has one entry a person and keeps its type, so that it can be scanned over and given away.
    start = model.initial_state(B)
    assert all(leaf.shape[:1] == (B,) for leaf in jax.tree.leaves(start))
    said, after = jax.eval_shape(functools.partial(model.apply, method="step"), variables, frames, start)
    assert said == out
    assert jax.tree.structure(after) == jax.tree.structure(start)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [(x.shape, x.dtype) for x in jax.tree.leaves(start)]


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_another_layout_are_refused(kind, helpers):
    model = models.build(config_of(kind), EGOBODY3M, layouts.EGOBODY3M)
    with pytest.raises(ValueError, match="frames: 2 views, but the model was built for the 4 views of 'egobody3m'"):
        base.abstract_variables(model, helpers.make_frames(1, 1))


def test_a_backbone_is_a_registered_encoder_and_names_its_modules(case):
    backbone = case.model.backbone
    if backbone is None:
        return
    assert backbone.name in ENCODERS
    assert set(case.variables["params"]["encoder"]) == {name for layer in backbone.layers for name in layer}


def test_a_checkpoint_gives_the_model_back(case, tmp_path):
    about = checkpoints.About(
        experiment={"model": config_lib.to_mapping(case.model.config)},
        skeleton=case.model.skeleton,
        layout=case.model.layout,
        image_size_hw=(SIZE, SIZE),
    )
    writer = checkpoints.CheckpointWriter(tmp_path, about)
    writer.save(1, {"step": jnp.ones((), jnp.int32)}, case.variables, {"next_step": 1})
    writer.close()
    trained = checkpoints.load(tmp_path)
    assert trained.model == case.model
    found = apply(trained.model, trained.variables, case.frames)
    assert_close(found, case.clip, atol=1e-6)


def test_whether_a_model_tells_its_uncertainty_is_known_before_it_runs(case):
    assert base.predicts_distribution(case.model, (SIZE, SIZE)) == (case.clip.distribution is not None)


def halves(frames):
    """Both halves of clips."""
    half = frames.frame_valid.shape[1] // 2
    parts = (slice(0, half), slice(half, None))
    return [jax.tree.map(lambda x, p=p: x[:, p], frames.replace(rig=None)).replace(rig=frames.rig) for p in parts]


def test_streams_give_what_clips_give(case):
    """In chunks of 2 and 5 frames; one by one: `test_the_predictor_streams_every_model`."""
    assert np.abs(np.diff(case.clip.joints_headset_m, axis=1)).max() > 1e-3, "a still figure would show nothing"
    _, last = case.run(case.frames, case.model.initial_state(PEOPLE))
    predictions, state_ = jax.jit(lambda frames: streams.scan_frames(case.model, case.variables, frames, chunk=2))(
        case.frames
    )
    assert_close(predictions, case.clip)
    assert_close(state_, last)
    chunks, state_ = [], case.model.initial_state(PEOPLE)
    for part in halves(case.frames):
        predictions, state_ = case.run(part, state_)
        chunks.append(predictions)
    assert_close(jax.tree.map(lambda *x: np.concatenate(x, axis=1), *chunks), case.clip)
    assert_close(state_, last)


def test_what_lies_under_masks_changes_nothing(case, helpers):
    """NaN too, in every input that has a mask."""
    rng = np.random.default_rng(1)
    frames, frame_valid = case.frames, np.ones((PEOPLE, case.num_frames), bool)
    half = case.num_frames // 2
    frame_valid[0, half:] = False
    view_valid = frames.view_valid & frame_valid[..., None]
    padded = frames.replace(frame_valid=frame_valid)
    noise = rng.random(frames.images.shape, np.float32)
    noise[:, ::2] = np.nan
    garbage = padded.replace(
        images=np.where(view_valid[..., None, None], frames.images, noise),
        T_world_headset=np.where(frame_valid[..., None, None], frames.T_world_headset, np.nan),
        frame_gap=np.where(frame_valid, frames.frame_gap, -5),
        view_valid=np.where(frame_valid[..., None], frames.view_valid, rng.random(view_valid.shape) > 0.5),
    )
    assert np.isnan(garbage.images).any() and np.isnan(garbage.T_world_headset).any()
    start = case.model.initial_state(PEOPLE)
    expected, expected_state = case.run(padded, start)
    found, found_state = case.run(garbage, start)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((found, found_state)))
    assert_close(at(found, frame_valid), at(expected, frame_valid), atol=1e-6)
    assert_close(at(found, frame_valid), at(case.clip, frame_valid))  # nor does the padding
    assert_close(found_state, expected_state, atol=1e-6)
    _, ended = case.run(helpers.time_slice(frames, 0, half), start)
    assert_close(at(found_state, 0), at(ended, 0))  # the stream goes on where its valid frames ended


def test_no_prediction_depends_on_a_later_frame(case):
    for t in (0, 4, case.num_frames - 2):
        later = np.arange(case.num_frames) > t
        other, _ = case.run(changed_frames(case.frames, later), case.model.initial_state(PEOPLE))
        assert_close(at(other, (slice(None), ~later)), at(case.clip, (slice(None), ~later)), atol=1e-6)
        assert moved(other, case.clip)[:, t + 1].max() > 1e-3


@pytest.mark.parametrize("gap", [1, 2])
def test_history_is_what_a_prediction_depends_on(case, gap):
    T, history = case.num_frames, case.model.history
    frames = case.frames.replace(
        frame_gap=np.full((PEOPLE, T), gap, np.int32), view_valid=np.ones_like(case.frames.view_valid)
    )
    start = case.model.initial_state(PEOPLE)
    expected, _ = case.run(frames, start)
    age = gap * np.arange(T)[::-1]  # of each frame at the last one, frame times
    reach = math.inf if history is None else history - 1

    def change(where):
        return moved(case.run(changed_frames(frames, where), start)[0], expected)[:, -1].max()

    assert change(age == 0) > 1e-3
    if history is not None:
        assert (age > reach).any() and change(age > reach) < 1e-6
    if reach >= gap:
        assert change((age > 0) & (age <= reach)) > 1e-4


def test_a_stream_that_is_reset_has_seen_nothing(case):
    first, second = halves(case.frames)
    start = case.model.initial_state(PEOPLE)
    _, state_ = case.run(first, start)
    fresh, gone_on = (case.run(second, s)[0] for s in (start, state_))
    after, _ = case.run(second, base.reset(case.model, state_, jnp.array([True, False])))
    assert_close(at(after, 0), at(fresh, 0), atol=0)
    assert_close(at(after, 1), at(gone_on, 1), atol=0)
    has_memory = case.model.history != 1
    assert (moved(fresh, gone_on).max() > 1e-5) == has_memory
    assert bool(jax.tree.leaves(start)) == has_memory


def as_batch(frames, skeleton):
    rng = np.random.default_rng(3)
    shape = (*frames.frame_valid.shape, skeleton.num_joints)
    joints = skeleton.rest_joints_headset_m() + rng.normal(0, 0.05, (*shape, 3))
    targets = Targets(joints_headset_m=joints.astype(np.float32), joint_valid=rng.random(shape) > 0.1)
    time_s = np.tile(np.arange(shape[1], dtype=np.float32) / 30, (shape[0], 1))
    return Batch(frames=frames, targets=targets, clip_id=np.arange(shape[0], dtype=np.int32), time_s=time_s)


def test_gradients_through_the_objective_are_finite(case):
    frames = case.frames
    frame_valid = np.arange(case.num_frames)[None] < np.array([[case.num_frames], [6]])
    view_valid = frames.view_valid & frame_valid[..., None]
    frames = frames.replace(
        images=np.where(view_valid[..., None, None], frames.images, np.nan).astype(np.float32),
        T_world_headset=np.where(frame_valid[..., None, None], frames.T_world_headset, np.nan).astype(np.float32),
        frame_valid=frame_valid,
    )
    batch = as_batch(frames, EGOBODY3M)
    objective = objectives.build(PoseObjectiveConfig(), EGOBODY3M)

    def loss(params):
        predictions, updated = case.model.apply(
            {**case.variables, "params": params},
            batch.frames,
            train=True,
            mutable=["batch_stats"],
            rngs={"drop_path": jax.random.key(0)},
        )
        return step.weighted_sum(objective(predictions, batch, 0.5)), updated

    (value, updated), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(case.variables["params"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, updated, gradients)))
    for module, gradient in gradients.items():
        assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(gradient)), f"{module} learns nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_the_train_step_takes_every_model(kind, helpers):
    """Shapes only: a new state is as the old one, whatever collections and random numbers the model has."""
    skeleton = FIVE_JOINTS  # not the one that all other trainings have
    model = models.build(config_of(kind), skeleton, fakes.TWO_VIEWS)
    batch = as_batch(helpers.make_frames(PEOPLE, 5), skeleton)
    optimizer = optim.make_optimizer(optim.OptimizerConfig(encoder_layer_decay=0.8), 10, model.backbone)
    learner = step.Learner(
        model=model,
        objective=objectives.build(PoseObjectiveConfig(), skeleton),
        optimizer=optimizer,
        augment=augment.AugmentConfig(),
        config=step.StepConfig(steps=10, accumulation=2),
    )
    key = jax.random.key(0)
    before = jax.eval_shape(lambda: state.create_state(key, model, optimizer, batch.frames))
    after, metrics = jax.eval_shape(functools.partial(step.train_step, learner=learner), before, batch, key)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), before)
    assert {"loss", "refined_mse", "mpjpe_cm"} <= set(metrics)


def test_the_predictor_streams_every_model(case):
    frames = case.frames.replace(images=(255 * case.frames.images).round().astype(np.uint8))
    predictor = Predictor(case.model, case.variables, (SIZE, SIZE))
    stream = predictor.start(frames.rig, PEOPLE)
    for t in range(case.num_frames):
        pose, stream = predictor.step(
            stream, frames.images[:, t], frames.T_world_headset[:, t], frames.view_valid[:, t], frames.frame_gap[:, t]
        )
        np.testing.assert_allclose(pose.joints_headset_m, case.clip.joints_headset_m[:, t], atol=2e-5)
        assert (pose.covariance_world_m2 is None) == (case.clip.distribution is None)
    stream = predictor.reset(stream, np.array([True, True]))
    again, _ = predictor.step(stream, frames.images[:, 0], frames.T_world_headset[:, 0], frames.view_valid[:, 0])
    np.testing.assert_allclose(again.joints_headset_m, case.clip.joints_headset_m[:, 0], atol=2e-5)
