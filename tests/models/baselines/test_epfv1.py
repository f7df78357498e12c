"""EgoPoseFormer v1: what is sampled where, what trains what, sizes, released weights, and parity with PyTorch."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import scipy.ndimage

from epfv2_jax import objectives, structs
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models import base
from epfv2_jax.models.baselines.egoposeformer_v1 import layers, unrealego
from epfv2_jax.models.baselines.egoposeformer_v1.model import EPFv1, EPFv1Config
from epfv2_jax.models.baselines.unrealego.weights import LAYOUT, SKELETON
from epfv2_jax.models.encoders.weights import reading
from epfv2_jax.models.weights import IMPORTERS
from epfv2_jax.objectives.distances import DistancesObjectiveConfig
from epfv2_jax.objectives.heatmap import HeatmapObjectiveConfig
from epfv2_jax.structs import Rig
from epfv2_jax.testing import fakes
from epfv2_jax.training import step

SMALL = {"encoder": "tiny", "width": 16, "heads": 2, "points": 4, "ffn_width": 16, "proposal_width": 32}
STEM_CHANNEL = 64 * 7 * 7  # parameters of the stem for one channel of the image


def small_model(**changes):
    return EPFv1(EPFv1Config(**{**SMALL, **changes}), EGOBODY3M, layouts.EGOBODY3M)


def batch_of(B=2, T=2):
    batch = fakes.fake_batch(B=B, T=T, image_hw=(32, 40))
    return batch.replace(frames=batch.frames.replace(images=batch.frames.images.astype(np.float32) / 255))


@pytest.mark.parametrize("size_hw", [(6, 9), (1, 1)])
def test_samples_are_scipys(size_hw):
    rng = np.random.default_rng(0)
    N, J, A, P, K = 2, 3, 2, 5, 4
    maps = rng.normal(size=(N, *size_hw, A, K)).astype(np.float32)
    at = rng.uniform(-3, 12, (N, J, A, P, 2)).astype(np.float32)
    at[0, 0, 0, :4] = [[0, 0], [size_hw[1] - 1, size_hw[0] - 1], [-0.5, 0], [1e6, 0]]
    weights = rng.random((N, J, A, P)).astype(np.float32)
    expected = np.zeros((N, J, A, K))
    for n, j, a, p, k in np.ndindex(N, J, A, P, K):
        place = at[n, j, a, p, ::-1].astype(np.float64)[:, None]
        found = scipy.ndimage.map_coordinates(maps[n, :, :, a, k], place, order=1, mode="grid-constant")
        expected[n, j, a, k] += weights[n, j, a, p] * found[0]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(jax.jit(layers.sample)(maps, at, weights), expected, atol=1e-5)


def test_a_joint_looks_where_it_projects_to():
    """Features that hold the pixel of each cell's middle give back the pixel of a joint; where it is not seen, zero."""
    batch = batch_of(B=1, T=3)
    rig, H, W = batch.frames.rig, 32, 40
    joints_m = batch.targets.joints_headset_m
    place, lens = jax.jit(Rig.project)(rig, joints_m)
    place, lens = np.asarray(place), np.asarray(lens)
    seen = (lens & ((place > 0.1) & (place < 0.9)).all(-1)).reshape(3, 4, -1)
    assert seen.any() and not seen.all()
    v, u = np.meshgrid(np.arange(H // 4) * 4 + 1.5, np.arange(W // 4) * 4 + 1.5, indexing="ij")
    features = np.broadcast_to(np.stack([u, v], -1).astype(np.float32), (3, 4, H // 4, W // 4, 2))
    attention = layers.DeformableAttention(heads=1, points=2)
    views = layers.Views(features=features, anchors=place.reshape(3, 4, -1, 2), seen=seen)
    queries = np.zeros((3, fakes.J, 2), np.float32)
    params = jax.jit(attention.init)(jax.random.key(0), queries, views)["params"]
    identity = {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}
    nowhere = {**params["offsets"], "bias": np.zeros_like(params["offsets"]["bias"])}
    found = jax.jit(attention.apply)(
        {"params": {**params, "value": identity, "out": identity, "offsets": nowhere}}, queries, views
    )
    camera, T_cam_headset = jax.tree.map(lambda leaf: leaf[0], (rig.cameras, rig.T_cam_headset))
    project = jax.jit(lambda joints_m: cameras.project(camera, transforms.apply(T_cam_headset, joints_m))[0])
    expected = np.stack([project(joints) for joints in joints_m[0]])
    np.testing.assert_allclose(found, np.where(seen[..., None], expected, 0.0), atol=1e-3)


def test_points_start_on_rays_around_the_anchor():
    bias = layers._rays(heads=4, points=3)(None, (24,), jnp.float32).reshape(4, 3, 2)
    directions = [[1, 0], [0, 1], [-1, 0], [0, -1]]
    np.testing.assert_allclose(bias, np.einsum("ax,p->apx", directions, [1, 2, 3]), atol=1e-6)


@functools.cache
def random_case(**changes):
    """A small model of two layers, a batch and random variables."""
    model, batch = small_model(depth=2, **changes), batch_of()
    return model, batch, fakes.random_variables(model, batch.frames)


@functools.cache
def pose_gradients():
    """From shares of the errors of the poses, in order, to the gradient of the sum."""
    model, batch, variables = random_case()

    def loss(params, shares):
        predictions = model.apply({**variables, "params": params}, batch.frames)
        poses = [*predictions.intermediate_joints_m.values(), predictions.joints_headset_m]
        errors = [jnp.square(pose - batch.targets.joints_headset_m).sum() for pose in poses]
        return jnp.dot(shares, jnp.stack(errors))

    gradient = jax.jit(jax.grad(loss))
    return lambda *shares: gradient(variables["params"], jnp.array(shares, jnp.float32))


def moved_by(gradients):
    """The modules whose gradient is not zero."""
    return {name for name, tree in gradients.items() if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))}


def test_the_layers_correct_the_proposal_but_do_not_train_it():
    common = {"encoder", "neck", "features"}
    gradient = pose_gradients()
    assert moved_by(gradient(1, 0, 0)) == common | {"proposal"}
    assert moved_by(gradient(0, 1, 0)) == common | {"query", "layers_0", "offsets_0"}
    assert moved_by(gradient(0, 0, 1)) == common | {"query", "layers_0", "layers_1", "offsets_1"}


def test_heatmaps_train_encoder_and_neck_alone():
    joints = ("b_r_wrist", "b_l_wrist", "b_l_foot_twist")
    model, batch, variables = random_case(heatmap_head=True, heatmap_joints=joints)
    objective = objectives.build(HeatmapObjectiveConfig(heatmap_joints=joints), EGOBODY3M)

    def loss(params):
        predictions = model.apply({**variables, "params": params}, batch.frames)
        assert predictions.heatmaps["predicted"].shape == (2, 2, 4, 8, 10, 3)
        return step.weighted_sum(objective(predictions, batch, 0.0))

    assert moved_by(jax.jit(jax.grad(loss))(variables["params"])) == {"encoder", "neck", "heatmap_head"}
    with pytest.raises(ValueError, match="did you mean b_r_wrist"):
        base.abstract_predictions(small_model(heatmap_head=True, heatmap_joints=("b_r_wirst",)), batch.frames)


def test_only_views_that_have_a_joint_in_them_count():
    """A rig that sees no joint changes the layers' poses, but not the proposal, which knows of no rig."""
    model, batch, variables = random_case()
    run = jax.jit(lambda frames: model.apply(variables, frames))
    away = batch.frames.rig.T_cam_headset.copy()
    away[..., :3, 3] += [0, 0, -5.0]  # every joint lies behind every camera
    blind = batch.frames.replace(rig=Rig(cameras=batch.frames.rig.cameras, T_cam_headset=away))
    one, other = run(batch.frames), run(blind)
    np.testing.assert_array_equal(one.intermediate_joints_m["proposal"], other.intermediate_joints_m["proposal"])
    assert np.abs(one.joints_headset_m - other.joints_headset_m).max() > 1e-4
    hidden = np.zeros_like(batch.frames.view_valid)  # cameras of views that are not valid do not matter
    first, second = (run(frames.replace(view_valid=hidden)) for frames in (batch.frames, blind))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    "skeleton, layout, published",
    [(SKELETON, LAYOUT, 14_172_601), (EGOBODY3M, layouts.EGOBODY3M, 14_563_799)],
    ids=lambda x: getattr(x, "name", ""),
)
def test_the_number_of_parameters_is_the_published_one(skeleton, layout, published):
    """Without running statistics and constant tensors; the original's stem has three channels where ours has one."""
    model = EPFv1(EPFv1Config(), skeleton, layout)
    frames = structs.blank_frames(1, 1, model.layout.num_views, (256, 256))
    params = base.abstract_variables(model, frames)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) + 2 * STEM_CHANNEL == published


def test_the_objective_is_the_sum_of_mean_distances():
    batch = fakes.mask_some(fakes.fake_batch())
    predictions = fakes.fake_predictions(batch)
    valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
    truth = batch.targets.joints_headset_m
    poses = (predictions.joints_headset_m, predictions.intermediate_joints_m["proposal"])
    expected = sum(0.1 * 100 * np.linalg.norm(pose - truth, axis=-1)[valid].mean() for pose in poses)
    objective = objectives.build(DistancesObjectiveConfig(), EGOBODY3M)

    @jax.jit
    def loss(predictions, batch):
        return step.weighted_sum(objective(predictions, batch, 0.0))

    np.testing.assert_allclose(loss(predictions, batch), expected, rtol=1e-5)
    bad_batch, bad_predictions = fakes.poison(batch, predictions)
    value, gradient = jax.jit(jax.value_and_grad(loss, allow_int=True))(bad_predictions, bad_batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    right = predictions.replace(joints_headset_m=truth, intermediate_joints_m={})
    assert np.isfinite(jax.jit(jax.grad(loss))(right, batch).joints_headset_m).all(), "at the truth"


@pytest.mark.slow
def test_it_learns_eight_frames_by_heart():
    """First heatmaps, then poses from the encoder and neck that they trained."""
    batch = fakes.fake_batch(B=8, T=1, image_hw=(32, 32))
    smooth = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random(batch.frames.images.shape), (0, 0, 0, 3, 3))
    images = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    batch = batch.replace(frames=batch.frames.replace(images=images))
    batch = batch.replace(
        targets=batch.targets.replace(
            joints_headset_m=fakes.rest_joints().astype(np.float32)
            + np.random.default_rng(1).normal(0, 0.15, (8, 1, fakes.J, 3)).astype(np.float32)
        )
    )

    def train(model, objective, start, steps):
        variables = jax.jit(model.init)(jax.random.key(0), batch.frames)
        optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, steps))
        variables = {
            c: {**tree, **{k: v for k, v in start.get(c, {}).items() if k in tree}} for c, tree in variables.items()
        }

        def loss(params, stats):
            predictions, updated = model.apply(
                {"params": params, "batch_stats": stats}, batch.frames, train=True, mutable=["batch_stats"]
            )
            terms = objective(predictions, batch, 0.0)
            return step.weighted_sum(terms), (updated["batch_stats"], predictions)

        @jax.jit
        def update(params, stats, moments):
            (value, (stats, predictions)), grads = jax.value_and_grad(loss, has_aux=True)(params, stats)
            updates, moments = optimizer.update(grads, moments)
            return optax.apply_updates(params, updates), stats, moments, value, predictions

        params, stats = variables["params"], variables["batch_stats"]
        moments, first = optimizer.init(params), None
        for _ in range(steps):
            params, stats, moments, value, predictions = update(params, stats, moments)
            first = value if first is None else first
        return {"encoder": params["encoder"], "neck": params["neck"]}, stats, first, value, predictions

    heatmap = objectives.build(HeatmapObjectiveConfig(), EGOBODY3M)
    params, stats, first, last, _ = train(small_model(heatmap_head=True), heatmap, {}, 100)
    assert last < 0.5 * first
    distances = objectives.build(DistancesObjectiveConfig(), EGOBODY3M)
    *_, first, last, found = train(small_model(), distances, {"params": params, "batch_stats": stats}, 300)
    error_m = np.linalg.norm(found.joints_headset_m - batch.targets.joints_headset_m, axis=-1)
    assert 100 * error_m[batch.targets.joint_valid].mean() < 2.0
    assert last < 0.15 * first


# Released weights


@pytest.fixture(scope="module")
def shapes(shared_data):
    lines = (shared_data / "weight_keys" / "epf1_pose.keys.txt").read_text().split("\n")
    pairs = (line.split(" ", 1) for line in lines if line)
    return {key: tuple(map(int, re.findall(r"\d+", shape))) for key, shape in pairs}


@pytest.fixture(scope="module")
def tensors(shapes):
    """Random weights by key, of sizes that a trained network could have."""
    rng = np.random.default_rng(0)

    def draw(key, shape):
        if key.endswith(("spatial_shapes", "start_index", "num_batches_tracked")):
            return np.zeros(shape, np.int64)
        if key.endswith(("running_var", "norm.weight", ".1.weight", "bn1.weight", "bn2.weight")) and len(shape) == 1:
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if key == "mlp_pred.2.bias":
            return rng.normal(0, 40, shape).astype(np.float32)
        scale = 0.1 if len(shape) < 2 else 1.3 / np.prod(shape[1:]) ** 0.5
        return rng.normal(0, scale, shape).astype(np.float32)

    return {key: draw(key, shape) for key, shape in shapes.items()}


def write(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return [reading.read(path)]


def test_released_weights_fill_every_parameter_and_every_tensor_has_its_place(tensors, tmp_path):
    plain = IMPORTERS["epfv1"](write(tmp_path / "a.safetensors", tensors))
    wrapped = IMPORTERS["epfv1"](write(tmp_path / "b.safetensors", {f"model.{k}": v for k, v in tensors.items()}))
    assert plain.used + len(plain.ignored) == len(tensors) == 262
    assert set(plain.ignored.values()) == {"counts training steps", "the size of the map"}
    jax.tree.map(np.testing.assert_array_equal, plain.variables, wrapped.variables)
    model = EPFv1(plain.config, plain.skeleton, plain.layout)
    frames = structs.blank_frames(1, 1, plain.layout.num_views, plain.image_size_hw)
    expected = base.abstract_variables(model, frames)
    assert jax.tree.map(jnp.shape, expected) == jax.tree.map(jnp.shape, plain.variables)
    values = np.concatenate([leaf.ravel()[:1] for leaf in jax.tree.leaves(plain.variables)])
    assert len(np.unique(values)) == len(values), "a tensor is used twice"


def test_other_files_are_refused(tensors, tmp_path):
    def message(**changes):
        changed = {key: value for key, value in {**tensors, **changes}.items() if value is not None}
        with pytest.raises(ValueError) as error:
            IMPORTERS["epfv1"](write(tmp_path / "x.safetensors", changed))
        return str(error.value)

    half = {key: value[:2] for key, value in tensors.items() if key == "mlp_pred.2.bias"}
    assert "missing: feat_proj.bias" in message(**{"feat_proj.bias": None})
    assert "unknown: conv_heatmap.bias" in message(**{"conv_heatmap.bias": np.zeros(15, np.float32)})
    assert "of another shape: mlp_pred.2.bias (2,), not (48,)" in message(**half)
    assert "not finite in feat_proj.bias" in message(**{"feat_proj.bias": np.full(128, np.nan, np.float32)})
    assert "must be float32" in message(**{"feat_proj.bias": np.zeros(128, np.float16)})
    (tmp_path / "epoch_11.ckpt").write_bytes(b"PK\x03\x04 anything")
    with pytest.raises(ValueError, match=r"epoch_11.ckpt: a pickle .*t\.get\('state_dict', t\).*save_file"):
        reading.read(tmp_path / "epoch_11.ckpt")


def test_the_camera_of_unrealego():
    """On the optical axis the centre of the image; in the image plane, 541 of its 1024 pixels away."""
    points = jnp.array([[[0.0, 0.0, 1.0], [0.5, 0.0, 0.0], [0.0, 0.1, 0.5], [0.0, -1.0, -0.2]]])
    pelvis = jnp.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.3]]])
    place, seen = jax.jit(unrealego.projection(pelvis))(points)
    assert place.shape == (1, 2, 4, 2) and seen.shape == (1, 2, 4)
    centre = np.array([511.1183, 510.8730])
    px = np.asarray(place[0, 0]) * 1024
    np.testing.assert_allclose(px[0], centre, atol=0.02)
    np.testing.assert_allclose(px[1], centre + np.array([541.084, 0]), atol=1e-2)
    assert px[2, 0] == pytest.approx(centre[0], abs=1e-2) and centre[1] < px[2, 1] < 700
    assert seen[0].tolist() == [[True, False, True, False], [True, True, True, False]]


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
def test_poses_and_gradients_are_those_of_pytorch(tensors, tmp_path):
    """64x64 images, so maps of 16x16: sizes come from the image alone."""
    torch_epfv1 = pytest.importorskip("torch_epfv1")
    rng = np.random.default_rng(2)
    images = rng.normal(size=(2, 2, 64, 64)).astype(np.float32)
    pelvis_cm = rng.normal([0, 20, 20], 15, (2, 2, 3)).astype(np.float32)
    imported = IMPORTERS["epfv1"](write(tmp_path / "a.safetensors", tensors))
    model = EPFv1(imported.config, imported.skeleton, imported.layout)
    project = unrealego.projection(jnp.asarray(pelvis_cm) / 100)

    def run(params):
        variables = {**imported.variables, "params": params}
        return model.apply(variables, images, jnp.ones((2, 2), bool), project, method="poses")[1]

    floats = {key: value for key, value in tensors.items() if value.dtype == np.float32}
    reference = torch_epfv1.Reference(floats)
    expected = reference.poses_cm(images, pelvis_cm)
    found = jax.jit(run)(imported.variables["params"])
    seen = np.asarray(project(found[0])[1])
    assert 0.1 < seen.mean() < 0.9
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(100 * ours, theirs.detach().numpy(), atol=1e-3)
    offset = found[-1] - found[0]
    np.testing.assert_allclose(
        100 * offset, (expected[-1] - expected[0]).detach(), atol=1e-4 * 100 * np.abs(offset).max()
    )

    sum((pose / 100).square().sum() for pose in expected).backward()
    gradients = jax.jit(jax.grad(lambda params: sum(jnp.square(pose).sum() for pose in run(params))))(
        imported.variables["params"]
    )
    for path, key in {
        ("encoder", "conv1", "kernel"): "encoder.backbone.layer_s2.0.weight",
        ("neck", "fuse_0", "kernel"): "encoder.neck.fuse_convs.0.0.weight",
        ("layers_0", "cross", "offsets", "kernel"): "layers.0.cross_attn.sampling_offsets.weight",
        ("layers_2", "cross", "weights", "bias"): "layers.2.cross_attn.attention_weights.bias",
        ("query", "hidden_0", "kernel"): "query_gen_mlp.0.weight",
        ("proposal", "out", "bias"): "mlp_pred.2.bias",
    }.items():
        ours = functools.reduce(lambda tree, name: tree[name], path, gradients)
        theirs = reference.tensors[key].grad.numpy()
        if key.endswith("layer_s2.0.weight"):  # each of three channels has the gradient of their sum
            theirs = theirs.mean(1, keepdims=True)
        theirs = reading.from_torch(theirs)
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max(), err_msg=key)
