"""Imported weights give the outputs of the network in PyTorch, in evaluation and in training."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import torch_unrealego
from safetensors.torch import save_file

from epfv2_jax import models, structs
from epfv2_jax.models.baselines.unrealego.model import UnrealEgoConfig
from epfv2_jax.models.baselines.unrealego.weights import LAYOUT, SKELETON, load
from epfv2_jax.models.encoders.weights import reading

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]

PEOPLE, SIZE = 3, 256
CONFIG = UnrealEgoConfig(
    heatmap_joints=SKELETON.joint_names[1:],
    decoder_widths=(12, 10, 8),
    conv_widths=(5, 6, 7),
    dense_widths=(12, 10),
    code_width=6,
    pose_width=9,
)


@pytest.fixture(scope="module")
def networks():
    return torch_unrealego.build(CONFIG, SKELETON.num_joints)


@pytest.fixture(scope="module")
def variables(networks, tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("weights"), []
    for name, net in zip(("heatmaps", "autoencoder"), networks, strict=True):
        prefix = "module." if name == "heatmaps" else ""  # as `DataParallel` writes it
        save_file({prefix + k: v.clone() for k, v in net.state_dict().items()}, folder / name)
        files.append(reading.read(folder / name))
    return load(files, CONFIG).variables


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_outputs_and_statistics_are_those_of_the_original(networks, variables, train):
    rng = np.random.default_rng(0)
    blank = structs.blank_frames(PEOPLE, 1, LAYOUT.num_views, (SIZE, SIZE))
    images = rng.integers(0, 255, blank.images.shape, np.uint8)
    valid = {"view_valid": np.ones((PEOPLE, 1, 2), bool), "frame_valid": np.ones((PEOPLE, 1), bool)}
    model = models.build(CONFIG, SKELETON, LAYOUT)
    frames = blank.replace(images=images, **valid)
    found, updated = model.apply(variables, frames, train=train, mutable=["batch_stats"])

    heatmap_net, autoencoder = (net.train(train) for net in networks)
    mono = torch.tensor((images[:, 0].astype(np.float32) / 255 - 0.45) / 0.225)
    with torch.no_grad():
        heatmaps = heatmap_net(*(mono[:, v, None].expand(-1, 3, -1, -1) for v in (0, 1)))
        pose_cm, again = autoencoder(heatmaps)
    by_view = [maps.unflatten(1, (2, -1)).permute(0, 1, 3, 4, 2) for maps in (heatmaps, again)]
    pairs = {
        "heatmaps": (found.heatmaps["predicted"][:, 0], by_view[0]),
        "pose": (100 * found.joints_headset_m[:, 0], pose_cm),
        "heatmaps again": (found.heatmaps["reconstructed"][:, 0], by_view[1]),
        # Moved by one view after the other. (Variances differ by n / (n - 1).)
        "mean": (
            updated["batch_stats"]["encoder"]["bn1"]["mean"],
            heatmap_net.backbone.backbone.backbone.bn1.running_mean,
        ),
        "mean of codes": (updated["batch_stats"]["autoencoder"]["fc3_bn"]["mean"], autoencoder.fc3.bn.running_mean),
    }
    for name, (ours, theirs) in pairs.items():
        theirs = theirs.numpy()
        assert theirs.std(0).max() > 1e-2, "what is alike everywhere would show nothing"
        assert np.abs(ours - theirs).max() <= (1e-3 if train else 1e-4) * np.abs(theirs).max(), name


def test_the_command_for_a_pickle_converts_the_authors_files(networks, tmp_path, variables):
    """Their state dictionaries hold tensors that share memory, which safetensors does not write as they are."""
    files = []
    for i, net in enumerate(networks):
        torch.save(net.state_dict(), tmp_path / f"{i}.pth")
        with pytest.raises(ValueError, match="a pickle") as error:
            reading.read(tmp_path / f"{i}.pth")
        command = re.search(r'python -c "(.*)"$', str(error.value))[1]
        subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
        files.append(reading.read(tmp_path / f"{i}.float32.safetensors"))
    again = load(files, CONFIG).variables
    jax.tree.map(np.testing.assert_array_equal, again["params"], variables["params"])
