"""EgoPoseFormer v1 in PyTorch, from tensors with the names of the released checkpoints: a reference for ours.

Written from the description of the network, as functions of the dictionary alone.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

RADIUS_PX = (
    *(541.084422, 133.996745, -53.833198, 60.96083, -24.78051, 12.451492, -30.240511, 26.90122, 116.38499, -133.991117),
    *(-141.904687, 184.05592, 107.45616, -125.552875, -55.66342, 44.209519, 18.234651, -6.410899, -2.737066),
)


class Reference:
    """The network for the tensors of a checkpoint (numpy, by key)."""

    def __init__(self, tensors):
        self.tensors = {key: torch.tensor(value, requires_grad=True) for key, value in tensors.items()}

    def poses_cm(self, images: np.ndarray, pelvis_cm: np.ndarray) -> list:
        """Returns the proposal and the pose of each layer, (N, J, 3), of grey images (N, V, H, W).

        `pelvis_cm` (N, V, 3) is the pelvis in the frame of each camera.
        """
        N, V, H, W = images.shape
        maps = self._maps(torch.tensor(images).reshape(N * V, 1, H, W).repeat(1, 3, 1, 1))
        features = self._conv("feat_proj", self._neck(maps)).reshape(N, V, -1, H // 4, W // 4)
        x = features.mean((3, 4)).reshape(N, -1)
        for key in ("mlp_pred.0.0", "mlp_pred.1.0"):
            x = torch.nn.functional.gelu(self._linear(key, x))
        proposal = self._linear("mlp_pred.2", x).reshape(N, -1, 3)
        start = proposal.detach()
        anchors, seen = project(start, torch.tensor(pelvis_cm))
        J = start.shape[1]
        number = torch.arange(1, J + 1)[None, :, None].expand(N, J, 1) / J
        x = torch.cat([number, start], dim=-1)
        for key in ("query_gen_mlp.0", "query_gen_mlp.2"):
            x = torch.relu(self._linear(key, x))
        x = self._linear("query_gen_mlp.4", x)
        poses = [proposal]
        for i in range(3):
            x = self._layer(f"layers.{i}.", x, features, anchors, seen)
            hidden = torch.nn.functional.gelu(self._linear(f"reg_mlp.{i}.0", self._norm(f"post_norm.{i}", x)))
            poses.append(start + self._linear(f"reg_mlp.{i}.2", hidden))
        return poses

    def _layer(self, name, x, features, anchors, seen):
        N, V, C, h, w = features.shape
        J = x.shape[1]
        offsets = self._linear(name + "cross_attn.sampling_offsets", x).reshape(N, J, 4, 16, 2)
        weights = self._linear(name + "cross_attn.attention_weights", x).reshape(N, J, 4, 16).softmax(-1)
        said = []
        for v in range(V):
            value = self._linear(name + "cross_attn.value_proj", features[:, v].permute(0, 2, 3, 1))
            value = value.reshape(N, h, w, 4, C // 4).permute(0, 3, 4, 1, 2).reshape(N * 4, C // 4, h, w)
            place = anchors[:, v, :, None, None] + offsets / torch.tensor([w, h])
            grid = (2 * place - 1).permute(0, 2, 1, 3, 4).reshape(N * 4, J, 16, 2)
            found = torch.nn.functional.grid_sample(value, grid, align_corners=False).reshape(N, 4, C // 4, J, 16)
            joined = torch.einsum("nakjp,njap->njak", found, weights).reshape(N, J, C)
            said.append(self._linear(name + "cross_attn.output_proj", joined) * seen[:, v, :, None])
        x = self._norm(name + "norm_cross", x + self._linear(name + "fuse_mlp", torch.cat(said, dim=-1)))
        query, key, value = (
            self._linear(f"{name}spatial_attn.{p}_proj", x).reshape(N, J, 4, C // 4).transpose(1, 2) for p in "qkv"
        )
        joined = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(N, J, C)
        x = self._norm(name + "norm_spatial", x + self._linear(name + "spatial_attn.out_proj", joined))
        hidden = torch.nn.functional.gelu(self._linear(name + "ffn.layers.0.0", x))
        return self._norm(name + "norm_ffn", x + self._linear(name + "ffn.layers.1", hidden))

    def _maps(self, x):
        stem = "encoder.backbone.layer_s2."
        x = torch.relu(self._batch_norm(stem + "1", torch.conv2d(x, self.tensors[stem + "0.weight"], None, 2, 3)))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in ("layer_s4.1", "layer_s8", "layer_s16", "layer_s32"):
            for block in (0, 1):
                x = self._block(
                    f"encoder.backbone.{stage}.{block}.", x, 2 if stage != "layer_s4.1" and not block else 1
                )
            maps.append(x)
        return maps

    def _block(self, name, x, stride):
        shortcut = x
        if name + "downsample.0.weight" in self.tensors:
            shortcut = torch.conv2d(x, self.tensors[name + "downsample.0.weight"], None, stride)
            shortcut = self._batch_norm(name + "downsample.1", shortcut)
        x = torch.conv2d(x, self.tensors[name + "conv1.weight"], None, stride, 1)
        x = torch.conv2d(torch.relu(self._batch_norm(name + "bn1", x)), self.tensors[name + "conv2.weight"], None, 1, 1)
        return torch.relu(self._batch_norm(name + "bn2", x) + shortcut)

    def _neck(self, maps):
        neck = "encoder.neck."
        laterals = [torch.relu(self._conv(f"{neck}lateral_convs.{i}.0", x)) for i, x in enumerate(maps)]
        x = laterals[-1]
        for i in (2, 1, 0):
            up = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = torch.relu(self._conv(f"{neck}fuse_convs.{i}.0", torch.cat([laterals[i], up], dim=1)))
            x = torch.relu(self._conv(f"{neck}fpn_convs.{i}.0", x))
        return x

    def _conv(self, key, x):
        weight = self.tensors[key + ".weight"]
        return torch.conv2d(x, weight, self.tensors[key + ".bias"], padding=weight.shape[-1] // 2)

    def _linear(self, key, x):
        return torch.nn.functional.linear(x, self.tensors[key + ".weight"], self.tensors[key + ".bias"])

    def _norm(self, key, x):
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], self.tensors[key + ".weight"], self.tensors[key + ".bias"]
        )

    def _batch_norm(self, key, x):
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (self.tensors[f"{key}.{name}"][:, None, None] for name in names)
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def project(joints_cm, pelvis_cm):
    """Places (N, V, J, 2) in the images of UnrealEgo, from 0 to 1 and cut off there, and which joints are inside."""
    x, y, z = (joints_cm[:, None] + pelvis_cm[:, :, None]).unbind(-1)
    from_axis = torch.sqrt(x * x + y * y)
    angle = torch.atan(-z / from_axis)
    radius = sum(a * angle**i for i, a in enumerate(RADIUS_PX))
    place = (
        torch.stack([x / from_axis * radius + 511.1183388444314, y / from_axis * radius + 510.8730105600536], -1) / 1024
    )
    return place.clamp(0, 1), ((place > 0) & (place < 1)).all(-1)
