import ast
import functools
import io
import json
import pickle
import re
import struct
import sys
import zipfile

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest

from epfv2_jax import checkpoints, import_weights
from epfv2_jax.models import encoders
from epfv2_jax.models.encoders import weights as weights_lib

safetensors_numpy = pytest.importorskip("safetensors.numpy")

# Key list (and heading of the part of it) -> encoder, layout, and places to look at: our path and index, their key and
# index. An index of the original is written out by hand here, not computed from ours.
RESNET18 = (
    ("params/layer2_0/downsample_0/kernel", (0, 0, 5, 7), "layer2.0.downsample.0.weight", (7, 5, 0, 0)),
    ("params/layer4_1/conv2/kernel", (0, 2, 3, 4), "layer4.1.conv2.weight", (4, 3, 0, 2)),
    ("params/layer1_1/bn2/scale", (6,), "layer1.1.bn2.weight", (6,)),
    ("params/bn1/bias", (1,), "bn1.bias", (1,)),
    ("batch_stats/layer3_0/downsample_1/mean", (8,), "layer3.0.downsample.1.running_mean", (8,)),
    ("batch_stats/layer3_0/bn1/var", (9,), "layer3.0.bn1.running_var", (9,)),
)
MOBILENETV4 = (
    ("params/blocks_2_0/dw_start/conv/kernel", (1, 2, 0, 9), "blocks.2.0.dw_start.conv.weight", (9, 0, 1, 2)),
    ("params/blocks_3_0/pw_proj/conv/kernel", (0, 0, 3, 5), "blocks.3.0.pw_proj.conv.weight", (5, 3, 0, 0)),
    ("batch_stats/blocks_2_1/pw_exp/bn/var", (2,), "blocks.2.1.pw_exp.bn.running_var", (2,)),
)
DINOV3 = (
    ("params/cls_token", (0, 0, 3), "cls_token", (0, 0, 3)),
    ("params/patch_embed/bias", (2,), "patch_embed.proj.bias", (2,)),
    ("params/block_11/norm1/scale", (4,), "blocks.11.norm1.weight", (4,)),
    ("params/block_2/attn/out/kernel", (1, 7), "blocks.2.attn.proj.weight", (7, 1)),
    ("params/block_2/attn/query/kernel", (3, 5), "blocks.2.attn.qkv.weight", (5, 3)),
    ("params/norm/bias", (0,), "norm.bias", (0,)),
)
DINOV3_S = (
    ("params/block_1/attn/key/kernel", (3, 5), "blocks.1.attn.qkv.weight", (384 + 5, 3)),
    ("params/block_1/attn/value/kernel", (3, 5), "blocks.1.attn.qkv.weight", (768 + 5, 3)),
)
TIMM_DINOV3 = (
    ("params/register_tokens", (0, 3, 5), "reg_token", (0, 3, 5)),
    ("params/block_9/layer_scale2", (4,), "blocks.9.gamma_2", (4,)),
)
META_DINOV3 = (
    *DINOV3,
    *DINOV3_S,
    ("params/register_tokens", (0, 3, 5), "storage_tokens", (0, 3, 5)),
    ("params/block_9/layer_scale2", (4,), "blocks.9.ls2.gamma", (4,)),
    ("params/block_9/attn/query/bias", (4,), "blocks.9.attn.qkv.bias", (4,)),
    ("params/block_9/attn/value/bias", (4,), "blocks.9.attn.qkv.bias", (768 + 4,)),
    ("params/block_0/mlp/fc1/kernel", (4, 900), "blocks.0.mlp.fc1.weight", (900, 4)),
)


def huggingface(prefix, *more):
    return (
        ("params/register_tokens", (0, 3, 5), "embeddings.register_tokens", (0, 3, 5)),
        ("params/patch_embed/bias", (2,), "embeddings.patch_embeddings.bias", (2,)),
        ("params/block_3/attn/key/kernel", (3, 5), f"{prefix}3.attention.k_proj.weight", (5, 3)),
        ("params/block_3/attn/value/bias", (3,), f"{prefix}3.attention.v_proj.bias", (3,)),
        ("params/block_3/attn/out/kernel", (3, 5), f"{prefix}3.attention.o_proj.weight", (5, 3)),
        ("params/block_11/layer_scale1", (3,), f"{prefix}11.layer_scale1.lambda1", (3,)),
        *((path, index, prefix + key, other) for path, index, key, other in more),
    )


PLAIN_MLP = ("params/block_1/mlp/fc2/kernel", (1000, 3), "1.mlp.down_proj.weight", (3, 1000))
GATED_MLP = (
    ("params/block_1/mlp/gate/kernel", (3, 1000), "1.mlp.gate_proj.weight", (1000, 3)),
    ("params/block_1/mlp/up/bias", (1000,), "1.mlp.up_proj.bias", (1000,)),
    ("params/block_1/mlp/down/kernel", (1000, 3), "1.mlp.down_proj.weight", (3, 1000)),
)
TIMM_GATED_MLP = (
    ("params/block_1/mlp/gate/kernel", (3, 1000), "blocks.1.mlp.fc1_g.weight", (1000, 3)),
    ("params/block_1/mlp/up/bias", (1000,), "blocks.1.mlp.fc1_x.bias", (1000,)),
    ("params/block_1/mlp/down/kernel", (1000, 3), "blocks.1.mlp.fc2.weight", (3, 1000)),
)
CASES = {
    ("timm_resnet18", ""): ("resnet18", "torchvision or timm", RESNET18),
    ("torchvision_resnet18", ""): ("resnet18", "torchvision or timm", RESNET18),
    ("timm_mobilenetv4_conv_small", ""): (
        "mobilenetv4_conv_small",
        "timm",
        (*MOBILENETV4, ("params/blocks_0_1/conv/kernel", (0, 0, 1, 2), "blocks.0.1.conv.weight", (2, 1, 0, 0))),
    ),
    ("timm_mobilenetv4_conv_medium", ""): (
        "mobilenetv4_conv_medium",
        "timm",
        (*MOBILENETV4, ("params/blocks_0_0/conv_exp/kernel", (0, 1, 5, 2), "blocks.0.0.conv_exp.weight", (2, 5, 0, 1))),
    ),
    ("timm_vit_small_patch16_dinov3", ""): ("dinov3_vits16", "timm", (*DINOV3, *DINOV3_S, *TIMM_DINOV3)),
    ("timm_vit_small_plus_patch16_dinov3", ""): (
        "dinov3_vits16plus",
        "timm",
        (*DINOV3, *DINOV3_S, *TIMM_DINOV3, *TIMM_GATED_MLP),
    ),
    ("timm_vit_base_patch16_dinov3", ""): ("dinov3_vitb16", "timm", (*DINOV3, *TIMM_DINOV3)),
    ("timm_vit_large_patch16_dinov3", ""): ("dinov3_vitl16", "timm", (*DINOV3, *TIMM_DINOV3)),
    ("hf_dinov3_vits16", "in-memory"): (
        "dinov3_vits16",
        "Hugging Face, in memory",
        huggingface("model.layer.", PLAIN_MLP),
    ),
    ("hf_dinov3_vits16", "keys in model.safetensors"): (
        "dinov3_vits16",
        "Hugging Face",
        huggingface("layer.", PLAIN_MLP),
    ),
    ("hf_dinov3_vits16plus_gated", ""): (
        "dinov3_vits16plus",
        "Hugging Face, in memory",
        huggingface("model.layer.", *GATED_MLP),
    ),
    ("meta_dinov3_vits16", ""): ("dinov3_vits16", "original", META_DINOV3),
}
STEMS = {"resnet": "conv1.weight", "mobilenetv4": "conv_stem.weight", "timm_vit": "patch_embed.proj.weight"}


def listed_tensors(folder, name, heading="", seed=0):
    """Returns random tensors of the keys and shapes of one part of a list; counters are integers."""
    lines = (folder / "weight_keys" / f"{name}.keys.txt").read_text().splitlines()
    inside, rng, tensors = not heading, np.random.default_rng(seed), {}
    for line in lines:
        if line.startswith("#"):
            inside = line.startswith(f"# {heading}")
        elif inside and "\t" in line:
            key, shape, *_ = line.split("\t")
            shape = ast.literal_eval(shape)
            counter = key.endswith("num_batches_tracked")
            tensors[key] = np.array(3) if counter else rng.standard_normal(shape, np.float32)
    assert tensors
    return tensors


def write(folder, tensors, name="weights.safetensors"):
    path = folder / name
    safetensors_numpy.save_file(tensors, path)
    return path


def imported(folder, tensors, encoder):
    return weights_lib.convert(weights_lib.read(write(folder, tensors)), encoder)


@functools.cache
def shapes_of(encoder):
    module = encoders.ENCODERS[encoder]()
    return jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 64, 64, 1), np.float32))


@pytest.fixture(scope="module")
def resnet18(shared_data):
    return listed_tensors(shared_data, "timm_resnet18")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[pytest.mark.slow] * ("large" in c[0] or "base" in c[0]), id=" ".join(c).strip())
        for c in CASES
    ],
)
def test_every_tensor_of_a_listed_file_lands_where_it_belongs(tmp_path, shared_data, case):
    encoder, layout, places = CASES[case]
    tensors = listed_tensors(shared_data, *case)
    path = write(tmp_path, tensors)
    result = weights_lib.convert(weights_lib.read(path), encoder)
    path.unlink()

    assert jax.tree.map(np.shape, result.variables) == jax.tree.map(np.shape, shapes_of(encoder))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(result.variables))
    assert result.layout == layout
    assert result.used + len(result.ignored) == len(tensors)

    flat = flax.traverse_util.flatten_dict(result.variables, sep="/")
    for path, index, key, other in places:
        assert flat[path][index] == tensors[key][other], (path, key)
    # Nothing was used twice or dropped: the sums over everything agree.
    total = sum(v.sum(dtype=np.float64) for k, v in tensors.items() if k not in result.ignored)
    total -= sum(
        np.split(v, 3)[1].sum(dtype=np.float64) for k, v in tensors.items() if k.endswith("qkv.bias")
    )  # the third of the keys
    np.testing.assert_allclose(sum(v.sum(dtype=np.float64) for v in flat.values()), total, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "encoder", "key", "path"),
    [
        ("timm_resnet18", "resnet18", "conv1.weight", "conv1"),
        ("timm_mobilenetv4_conv_small", "mobilenetv4_conv_small", "conv_stem.weight", "conv_stem"),
        ("timm_vit_small_patch16_dinov3", "dinov3_vits16", "patch_embed.proj.weight", "patch_embed"),
    ],
)
def test_stem_is_summed_over_colours_and_a_monochrome_one_is_kept(tmp_path, shared_data, name, encoder, key, path):
    tensors = listed_tensors(shared_data, name)
    colour = imported(tmp_path, tensors, encoder).variables["params"][path]["kernel"]
    r, g, b = np.moveaxis(tensors[key], 1, 0)
    np.testing.assert_allclose(colour[2, 1, 0, 5], r[5, 2, 1] + g[5, 2, 1] + b[5, 2, 1], rtol=1e-6)
    tensors[key] = np.ascontiguousarray(tensors[key][:, 1:2])
    mono = imported(tmp_path, tensors, encoder).variables["params"][path]["kernel"]
    assert mono.shape == colour.shape
    assert mono[2, 1, 0, 5] == tensors[key][5, 0, 2, 1]


def test_missing_biases_of_query_and_value_are_zero_and_present_ones_are_taken(tmp_path, shared_data):
    tensors = listed_tensors(shared_data, "timm_vit_small_patch16_dinov3")
    attention = imported(tmp_path, tensors, "dinov3_vits16").variables["params"]["block_4"]["attn"]
    assert not attention["query"]["bias"].any() and not attention["value"]["bias"].any()
    for i in range(12):
        tensors[f"blocks.{i}.attn.q_bias"] = np.full(384, i + 1, np.float32)
        tensors[f"blocks.{i}.attn.v_bias"] = np.full(384, -i - 1, np.float32)
    attention = imported(tmp_path, tensors, "dinov3_vits16").variables["params"]["block_4"]["attn"]
    assert (attention["query"]["bias"] == 5).all() and (attention["value"]["bias"] == -5).all()


def test_a_bias_of_the_keys_is_dropped_only_where_the_original_masks_it(tmp_path, shared_data):
    tensors = listed_tensors(shared_data, "meta_dinov3_vits16")
    masks = [key for key in tensors if key.endswith("bias_mask")]
    for key in masks:
        tensors[key][:] = np.nan  # as the original leaves an untouched mask; it is ignored
    assert set(masks) < set(imported(tmp_path, tensors, "dinov3_vits16").ignored)
    without = {key: value for key, value in tensors.items() if key not in masks}
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.bias has a bias for the keys .*no .*bias_mask"):
        imported(tmp_path, without, "dinov3_vits16")


def test_a_gated_mlp_of_the_original_is_told_apart(tmp_path, shared_data):
    tensors = listed_tensors(shared_data, "meta_dinov3_vits16")
    for i in range(12):
        mlp = f"blocks.{i}.mlp."
        for kind in ("weight", "bias"):
            tensors[f"{mlp}w1.{kind}"] = tensors.pop(f"{mlp}fc1.{kind}")
            tensors[f"{mlp}w2.{kind}"] = tensors[f"{mlp}w1.{kind}"] + 1
            tensors[f"{mlp}w3.{kind}"] = tensors.pop(f"{mlp}fc2.{kind}")
    mlp = imported(tmp_path, tensors, "dinov3_vits16plus").variables["params"]["block_7"]["mlp"]
    assert mlp["gate"]["kernel"][3, 1000] == tensors["blocks.7.mlp.w1.weight"][1000, 3]
    assert mlp["up"]["kernel"][3, 1000] == tensors["blocks.7.mlp.w2.weight"][1000, 3]
    assert mlp["up"]["bias"][1000] == tensors["blocks.7.mlp.w2.bias"][1000]
    assert mlp["down"]["kernel"][1000, 3] == tensors["blocks.7.mlp.w3.weight"][3, 1000]


def test_a_tensor_that_is_ignored_may_have_any_type(tmp_path, shared_data):
    tensors = listed_tensors(shared_data, "meta_dinov3_vits16")
    tensors["rope_embed.periods"] = np.ones(16, np.float16)  # rounded in the original too
    assert imported(tmp_path, tensors, "dinov3_vits16").ignored["rope_embed.periods"] == "computed here"


def torch_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": 1}))
    return buffer.getvalue()


class Trap:
    def __reduce__(self):
        return sys.exit, ("unpickled",)


@pytest.mark.parametrize("content", [torch_zip(), pickle.dumps({"w": Trap()}, protocol=2)], ids=["zip", "pickle"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_pickle_is_recognised_by_content_and_never_opened(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)a pickle .*weights_only=True.*save_file"):
        weights_lib.read(path)


@pytest.mark.parametrize(
    "encoder, config, told",
    [
        ("resnet18", {"architecture": "resnet18"}, "architecture by config.json: resnet18"),
        ("dinov3_vits16", {"architecture": "vit_small_patch16_dinov3_qkvb"}, "vit_small_patch16_dinov3_qkvb"),
        ("resnet50", {"model_type": "resnet"}, "architecture by config.json: resnet"),
        ("resnet18", None, r"no config\.json .* cannot tell resnet18 from resnetblur18: make sure"),
        ("resnet34", None, r"no config\.json beside the file$"),
    ],
)
def test_the_architecture_is_confirmed_or_left_to_the_user(tmp_path, encoder, config, told):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert re.search(told, weights_lib.confirm(str(tmp_path / "model.safetensors"), encoder))


@pytest.mark.parametrize(
    "encoder, config, message",
    [
        (own, {"architecture": other}, f"architecture '{other}' is not '{own}'")
        for own in weights_lib.LOOKALIKES
        for other in weights_lib.LOOKALIKES[own]
    ]
    + [
        (
            "resnet50",
            {"model_type": "resnet", "downsample_in_bottleneck": True},
            r".*get the weights .* \(ResNet v1\.5\)",
        ),
        ("resnet18", [1], "expected a JSON object"),
    ],
)
def test_a_variant_that_the_keys_cannot_tell_is_refused(tmp_path, encoder, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        weights_lib.confirm(str(tmp_path / "model.safetensors"), encoder)


@pytest.mark.parametrize(
    "content, named",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46827520\n",
            "pointer of Git LFS.*git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in", "a web page, not the weights; download the file itself"),
        (b"<html lang=en>", "a web page"),
        (b'{"error": "Repository not found"}', "JSON, such as an index or an answer of a server"),
        (b"\x08\0\0\0", "not a whole safetensors file; get it again"),
    ],
)
def test_what_was_fetched_instead_of_weights_is_named(tmp_path, content, named):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.safetensors: (a )?{named}"):
        weights_lib.read(path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(0x80)
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.5))
    assert path.read_bytes().startswith(b"\x80")
    assert weights_lib.read(path).load("w") == 1.5


def test_what_is_no_whole_file_is_refused(tmp_path, resnet18):
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="no such file; give a safetensors file"):
        weights_lib.read(path)
    path.write_bytes(b"not weights" * 10)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        weights_lib.read(path)
    whole = write(tmp_path, resnet18).read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"not a whole safetensors file; get it again"):
        weights_lib.read(path)


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "F16"), (ml_dtypes.bfloat16, "BF16")])
def test_half_precision_is_refused_with_the_conversion(tmp_path, resnet18, dtype, name):
    tensors = {**resnet18, "bn1.bias": resnet18["bn1.bias"].astype(dtype)}
    with pytest.raises(ValueError, match=rf"bn1\.bias is {name}; half precision has rounded .*v\.float\(\)"):
        imported(tmp_path, tensors, "resnet18")


def test_integers_for_weights_are_refused(tmp_path, resnet18):
    tensors = {**resnet18, "bn1.bias": np.ones(64, np.int32)}
    with pytest.raises(ValueError, match=r"must be float32 \(F32\), but bn1\.bias is I32; convert it"):
        imported(tmp_path, tensors, "resnet18")


def test_weights_that_are_not_finite_are_refused_by_key(tmp_path, resnet18):
    broken = resnet18["layer1.0.bn1.running_var"].copy()
    broken[3] = np.inf
    with pytest.raises(ValueError, match=r"not finite in layer1\.0\.bn1\.running_var; get the file again"):
        imported(tmp_path, {**resnet18, "layer1.0.bn1.running_var": broken}, "resnet18")


def test_missing_unknown_and_misshapen_keys_are_listed(tmp_path, resnet18):
    tensors = {key: value for key, value in resnet18.items() if key != "layer3.1.bn1.weight"}
    tensors["layer5.0.conv1.weight"] = np.zeros((2, 2), np.float32)
    tensors["layer1.0.conv2.weight"] = np.zeros((64, 64, 1, 1), np.float32)
    with pytest.raises(ValueError) as error:
        imported(tmp_path, tensors, "resnet18")
    message = str(error.value)
    assert "missing: layer3.1.bn1.weight;" in message
    assert "unknown: layer5.0.conv1.weight;" in message
    assert "of another shape: layer1.0.conv2.weight (64, 64, 1, 1), not (64, 64, 3, 3)" in message


def test_a_long_list_of_keys_is_cut(tmp_path, resnet18):
    tensors = {key: value for key, value in resnet18.items() if not key.startswith("layer4")}
    with pytest.raises(ValueError, match=r"missing: (layer4[\w.]+, ){9}layer4[\w.]+ and 15 more"):
        imported(tmp_path, tensors, "resnet18")


@pytest.mark.parametrize(
    ("name", "asked", "held"),
    [
        ("timm_resnet18", "resnet34", "resnet18"),
        ("timm_resnet18", "dinov3_vits16", "resnet18"),
        ("timm_mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_conv_small"),
        ("hf_dinov3_vits16plus_gated", "dinov3_vits16", "dinov3_vits16plus"),
        ("meta_dinov3_vits16", "dinov3_vitb16", "dinov3_vits16"),
    ],
)
def test_weights_of_another_encoder_are_named(tmp_path, shared_data, name, asked, held):
    with pytest.raises(ValueError, match=rf"not the weights of '{asked}'.*These are the weights of '{held}'"):
        imported(tmp_path, listed_tensors(shared_data, name), asked)


def test_a_common_prefix_is_named_not_guessed(tmp_path, resnet18):
    tensors = {f"model.backbone.{key}": value for key, value in resnet18.items()}
    with pytest.raises(ValueError, match=r"All keys begin with 'model\.backbone\.': save the file without it"):
        imported(tmp_path, tensors, "resnet18")


@pytest.mark.parametrize("encoder", ["tiny", "resnet19"])
def test_an_encoder_without_published_weights_is_refused(tmp_path, resnet18, encoder):
    with pytest.raises(ValueError, match=f"whose weights can be imported: '{encoder}' is not one of 'resnet18'"):
        imported(tmp_path, resnet18, encoder)


def test_the_command_imports_a_file_that_a_run_can_start_from(tmp_path, resnet18, capsys):
    path, out = write(tmp_path, resnet18), tmp_path / "imported"
    arguments = ["--encoder", "resnet18", "--file", str(path), "--out", str(out)]
    assert import_weights.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "tensors used: 100; ignored: 22" in printed
    assert "ignored 20: counts training steps" in printed and "ignored 2: classifier" in printed
    assert f'config.encoder_weights = "{out}"' in printed

    name, variables, meta = checkpoints.load_encoder(out)
    assert (name, meta["file"], meta["layout"]) == ("resnet18", "weights.safetensors", "torchvision or timm")
    assert len(meta["sha256"]) == 64
    expected = weights_lib.convert(weights_lib.read(path), "resnet18").variables
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    features = jax.eval_shape(encoders.ENCODERS["resnet18"]().apply, variables, np.ones((1, 32, 32, 1), np.float32))
    assert features[-1].shape == (1, 1, 1, 512)

    assert import_weights.main(arguments) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    assert import_weights.main([arguments[0], "resnet34", *arguments[2:]]) == 1
    assert "These are the weights of 'resnet18'" in capsys.readouterr().err
