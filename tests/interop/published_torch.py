"""A small PyTorch recogniser with the names of deep-text-recognition-benchmark, written anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rcmstr_jax.models.tps import spline_matrices

WIDTH, HIDDEN, FIDUCIALS = 32, 8, 20


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    options.setdefault("padding", kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, bias=False, **options)


class Block(nn.Module):
    """Basic block, with a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
            if inputs != outputs
            else None
        )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ConvNet(nn.Module):
    """The ResNet with one block per stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        w = WIDTH
        self.conv0_1, self.bn0_1 = conv(channels, w // 16), nn.BatchNorm2d(w // 16)
        self.conv0_2, self.bn0_2 = conv(w // 16, w // 8), nn.BatchNorm2d(w // 8)
        self.layer1 = nn.Sequential(Block(w // 8, w // 4))
        self.conv1, self.bn1 = conv(w // 4, w // 4), nn.BatchNorm2d(w // 4)
        self.layer2 = nn.Sequential(Block(w // 4, w // 2))
        self.conv2, self.bn2 = conv(w // 2, w // 2), nn.BatchNorm2d(w // 2)
        self.layer3 = nn.Sequential(Block(w // 2, w))
        self.conv3, self.bn3 = conv(w, w), nn.BatchNorm2d(w)
        self.layer4 = nn.Sequential(Block(w, w))
        self.conv4_1, self.bn4_1 = conv(w, w, 2, stride=(2, 1), padding=(0, 1)), nn.BatchNorm2d(w)
        self.conv4_2, self.bn4_2 = conv(w, w, 2, padding=0), nn.BatchNorm2d(w)

    def forward(self, x):
        x = F.relu(self.bn0_1(self.conv0_1(x)))
        x = F.max_pool2d(F.relu(self.bn0_2(self.conv0_2(x))), 2, 2)
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(self.layer1(x)))), 2, 2)
        x = F.relu(self.bn2(self.conv2(self.layer2(x))))
        x = self.layer3(F.max_pool2d(x, 2, (2, 1), (0, 1)))
        x = self.layer4(F.relu(self.bn3(self.conv3(x))))
        return F.relu(self.bn4_2(self.conv4_2(F.relu(self.bn4_1(self.conv4_1(x))))))


class BiLSTM(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, HIDDEN, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * HIDDEN, HIDDEN)

    def forward(self, x):
        return self.linear(self.rnn(x)[0])


class Localization(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (channels, 64, 128, 256, 512)
        for i, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers.append(nn.MaxPool2d(2, 2) if i < 3 else nn.AdaptiveAvgPool2d(1))
        self.conv = nn.Sequential(*layers)
        self.localization_fc1 = nn.Sequential(nn.Linear(512, 256), nn.ReLU())
        self.localization_fc2 = nn.Linear(256, 2 * FIDUCIALS)

    def forward(self, x):
        x = self.localization_fc1(self.conv(x).flatten(1))
        return self.localization_fc2(x).view(len(x), FIDUCIALS, 2)


class Rectifier(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.LocalizationNetwork = Localization(channels)
        self.GridGenerator = nn.Module()
        solver, basis = spline_matrices(FIDUCIALS, (32, 100))
        self.GridGenerator.register_buffer("inv_delta_C", torch.tensor(solver).float())
        self.GridGenerator.register_buffer("P_hat", torch.tensor(basis).float())

    def forward(self, x):
        solver, basis = spline_matrices(FIDUCIALS, (32, 100))
        grid = torch.tensor(basis @ solver) @ self.LocalizationNetwork(x).double()
        grid = grid.view(len(x), 32, 100, 2).to(x.dtype)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


class Cell(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.i2h = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.h2h = nn.Linear(HIDDEN, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=False)
        self.rnn = nn.LSTMCell(HIDDEN + classes, HIDDEN)


class Attention(nn.Module):
    """Additive attention and an LSTM; class 0 is [GO], class 1 [s]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.attention_cell = Cell(classes)
        self.generator = nn.Linear(HIDDEN, classes)

    def forward(self, features, steps: int = 26):
        cell, state, token = self.attention_cell, None, torch.zeros(len(features)).long()
        hidden, logits = torch.zeros(len(features), HIDDEN), []
        for _ in range(steps):
            query = torch.tanh(cell.i2h(features) + cell.h2h(hidden)[:, None])
            weights = torch.softmax(cell.score(query), dim=1)
            attended = (weights * features).sum(1)
            one_hot = F.one_hot(token, self.generator.out_features).float()
            state = cell.rnn(torch.cat([attended, one_hot], 1), state)
            hidden = state[0]
            logits.append(self.generator(hidden))
            token = logits[-1].argmax(1)
        return torch.stack(logits, 1)


class Published(nn.Module):
    """TPS-ResNet-BiLSTM-Attn or -CTC, (B, channels, 32, 100) in [-1, 1] -> logits."""

    def __init__(self, kind: str, classes: int, channels: int = 3, rectify: bool = False) -> None:
        super().__init__()
        if rectify:
            self.Transformation = Rectifier(channels)
        self.FeatureExtraction = nn.Module()
        self.FeatureExtraction.ConvNet = ConvNet(channels)
        self.SequenceModeling = nn.Sequential(BiLSTM(WIDTH), BiLSTM(HIDDEN))
        self.Prediction = Attention(classes) if kind == "trba" else nn.Linear(HIDDEN, classes)

    def forward(self, images):
        x = self.Transformation(images) if hasattr(self, "Transformation") else images
        x = self.FeatureExtraction.ConvNet(x).mean(2).transpose(1, 2)
        return self.Prediction(self.SequenceModeling(x))


def drawn(kind: str, classes: int, images: np.ndarray, rectify: bool = False) -> Published:
    """With random weights and the statistics of these images, so that it tells them apart."""
    torch.manual_seed(0)
    model = Published(kind, classes, images.shape[1], rectify)
    for name, tensor in model.state_dict().items():
        if name.startswith(("SequenceModeling", "Prediction")):
            tensor.mul_(2.0 if kind == "trba" else 3.0)
    if rectify:  # points near the straight image's, so that it is bent and not torn
        last = model.Transformation.LocalizationNetwork.localization_fc2
        x = np.linspace(-0.9, 0.9, FIDUCIALS // 2)
        points = np.concatenate([np.stack([x, y + 0 * x], 1) for y in (-0.8, 0.7)])
        last.bias.data = torch.tensor(points.reshape(-1)).float()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.tensor(images))
    return model.eval()
