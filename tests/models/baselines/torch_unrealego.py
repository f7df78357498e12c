"""UnrealEgo's network in PyTorch, written from its published sizes, with the names of the released tensors."""

import collections
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    """A residual block with torchvision's names."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """The parts of torchvision's ResNet-18, its unused classifier among them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for i in range(4):
            first = Block(widths[i], widths[i + 1], 1 if i == 0 else 2)
            setattr(self, f"layer{i + 1}", nn.Sequential(first, Block(widths[i + 1], widths[i + 1], 1)))
        self.fc = nn.Linear(512, 1000)


class Trunk(nn.Module):
    """The maps of strides 4 to 32; each layer is registered twice."""

    def __init__(self):
        super().__init__()
        net = self.backbone = ResNet18()
        self.layer0 = nn.Sequential(net.conv1, net.bn1, nn.ReLU())
        self.layer1 = nn.Sequential(nn.MaxPool2d(3, 2, 1), net.layer1)
        self.layer2, self.layer3, self.layer4 = net.layer2, net.layer3, net.layer4

    def forward(self, x):
        x, maps = self.layer0(x), []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


def convolution(channels_in, channels, size):
    return nn.Sequential(nn.Conv2d(channels_in, channels, size, padding=size // 2), nn.ReLU())


class Decoder(nn.Module):
    """The maps of both views to their heatmaps."""

    def __init__(self, num_heatmaps, widths):
        super().__init__()
        self.layer1_1x1, self.layer2_1x1 = convolution(128, 128, 1), convolution(256, 256, 1)
        self.layer3_1x1, self.layer4_1x1 = convolution(512, 516, 1), convolution(1024, 1024, 1)
        self.conv_up3 = convolution(1024 + 516, widths[0], 3)
        self.conv_up2 = convolution(widths[0] + 256, widths[1], 3)
        self.conv_up1 = convolution(widths[1] + 128, widths[2], 3)
        self.conv_heatmap = nn.Conv2d(widths[2], 2 * num_heatmaps, 1)

    def forward(self, maps):
        x = self.layer4_1x1(maps[3])
        for level in (3, 2, 1):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            lateral = getattr(self, f"layer{level}_1x1")(maps[level - 1])
            x = getattr(self, f"conv_up{level}")(torch.cat([x, lateral], 1))
        return self.conv_heatmap(x)


class Holder(nn.Module):
    """A module around another."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


class HeatmapNetwork(nn.Module):
    """Heatmaps (N, 2 K, 64, 64) of two views (N, 3, 256, 256)."""

    def __init__(self, num_heatmaps, widths):
        super().__init__()
        self.backbone = Holder(Trunk())
        self.after_backbone = Decoder(num_heatmaps, widths)

    def forward(self, left, right):
        views = [self.backbone.backbone(view) for view in (left, right)]
        return self.after_backbone([torch.cat(maps, 1) for maps in zip(*views, strict=True)])


def normalised(layer, width):
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.LeakyReLU(0.2))


def dense(width_in, width):
    parts = {"fc": nn.Linear(width_in, width), "bn": nn.BatchNorm1d(width), "act": nn.LeakyReLU(0.2)}
    return nn.Sequential(collections.OrderedDict(parts))


class AutoEncoder(nn.Module):
    """The pose (N, J, 3) in cm and the heatmaps again, of heatmaps (N, C, 64, 64)."""

    def __init__(self, channels, num_joints, convs, denses, code, pose):
        super().__init__()
        self.cells = (convs[-1], 8, 8)
        flat = convs[-1] * 64
        for i, (a, b) in enumerate(zip((channels, *convs), convs, strict=False)):
            setattr(self, f"conv{i + 1}", normalised(nn.Conv2d(a, b, 4, 2, 1), b))
        down = (flat, *denses, code)
        up = (code, *reversed(denses), flat)
        for name, widths in (("fc", down), ("pose_fc", (code, pose, pose)), ("heatmap_fc", up)):
            for i in range(len(widths) - 1):
                setattr(self, f"{name}{i + 1}", dense(widths[i], widths[i + 1]))
        self.pose_fc3 = nn.Linear(pose, 3 * num_joints)
        back = (*reversed(convs), channels)
        for i, (a, b) in enumerate(itertools.pairwise(back)):
            setattr(self, f"deconv{i + 1}", normalised(nn.ConvTranspose2d(a, b, 4, 2, 1), b))

    def forward(self, x):
        code = self.fc3(self.fc2(self.fc1(self.conv3(self.conv2(self.conv1(x))).flatten(1))))
        pose = self.pose_fc3(self.pose_fc2(self.pose_fc1(code)))
        x = self.heatmap_fc3(self.heatmap_fc2(self.heatmap_fc1(code))).unflatten(1, self.cells)
        return pose.unflatten(1, (-1, 3)), self.deconv3(self.deconv2(self.deconv1(x)))


def build(config, num_joints, seed=0):
    """Returns the heatmap network and the autoencoder, with random values also where they begin as 0 or 1."""
    K = len(config.heatmap_joints)
    heatmaps = HeatmapNetwork(K, config.decoder_widths)
    widths = (config.conv_widths, config.dense_widths, config.code_width, config.pose_width)
    autoencoder = AutoEncoder(2 * K, num_joints, *widths)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for net in (heatmaps, autoencoder):
            for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
                if not tensor.is_floating_point():
                    continue
                noise = torch.randn(tensor.shape, generator=generator)
                if tensor.ndim > 1:
                    tensor.copy_(noise * (2 / np.prod(tensor.shape[1:])) ** 0.5)
                elif name.endswith(("bias", "mean")):
                    tensor.copy_(0.2 * noise)
                else:
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return heatmaps, autoencoder
