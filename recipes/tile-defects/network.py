"""The network: a compact residual U-Net with a wide context block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 32
"""Height and width of the input must be multiples of this many pixels."""


def conv_norm(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution and batch norm without activation: export folds the norm into the convolution."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; `stride` 2 halves height and width."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs, stride=stride, dilation=dilation)
        self.second = conv_norm(outputs, outputs, dilation=dilation)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class Merge(nn.Module):
    """Doubles the deep features' size, joins the encoder's features of that size and mixes both."""

    def __init__(self, deep: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.reduce = conv_norm(deep, outputs, kernel=1)
        self.mix = conv_norm(outputs + skip, outputs)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """(n, deep, h, w) and (n, skip, 2 h, 2 w) -> (n, outputs, 2 h, 2 w)."""
        # Reducing before enlarging costs a quarter of the multiplications of the other order.
        enlarged = F.interpolate(F.relu(self.reduce(deep)), scale_factor=2.0, mode="nearest")
        return F.relu(self.mix(torch.cat([enlarged, skip], dim=1)))


def total(x: Tensor) -> Tensor:
    """(n, 1, h, w) -> (n, 1, 1, 1): sum, first over blocks, since float32 sums of 100,000 pixels differ by runtime."""
    return 256 * F.avg_pool2d(x, 16).sum((2, 3), keepdim=True)


def standardise(x: Tensor) -> Tensor:
    """(n, 1, h, w), 0..1 -> (n, 2, h, w): the picture and its fine structure, free of exposure.

    Exposures of one tile differ several times in brightness and contrast: each picture is brought to mean 0 and
    deviation 1. Zeros are padding: they take no part in the statistics and stay zeros.
    """
    inside = (x > 0).to(x.dtype)
    number = total(inside) + 1
    centred = (x - total(x) / number) * inside
    picture = centred / (total(centred * centred) / number + 1e-4).sqrt()
    coarse = F.avg_pool2d(F.avg_pool2d(picture, 16), 3, 1, 1)
    shading = F.interpolate(coarse, scale_factor=16.0, mode="bilinear", align_corners=False)
    return torch.cat([picture, (picture - shading) * inside], dim=1)


class TileNet(nn.Module):
    """Grey picture (n, 1, h, w) -> logits (n, classes, h, w); h and w are multiples of `STRIDE`.

    In training mode `forward` returns the logits and the auxiliary logits at 1/4 and 1/8 of the size.
    """

    def __init__(self, classes: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth, deepest = widths
        # Full-size features are the dearest and hold little: the stem and the head trade pixels for channels.
        self.stem = nn.Sequential(conv_norm(2, half, kernel=5, stride=2), nn.ReLU())
        self.down1 = Residual(half, half)
        self.down2 = nn.Sequential(Residual(half, quarter, stride=2), Residual(quarter, quarter))
        self.down3 = nn.Sequential(Residual(quarter, eighth, stride=2), Residual(eighth, eighth))
        self.down4 = nn.Sequential(Residual(eighth, sixteenth, stride=2), Residual(sixteenth, sixteenth))
        self.down5 = nn.Sequential(Residual(sixteenth, deepest, stride=2), Residual(deepest, deepest))
        # `uneven` is only visible against the rest of the tile: the dilations widen the view past a whole picture.
        self.context = nn.Sequential(Residual(deepest, deepest, dilation=2), Residual(deepest, deepest, dilation=4))
        self.dropout = nn.Dropout2d(dropout)
        self.up4 = Merge(deepest, sixteenth, sixteenth)
        self.up3 = Merge(sixteenth, eighth, eighth)
        self.up2 = Merge(eighth, quarter, quarter)
        self.up1 = Merge(quarter, half, half)
        self.head = nn.Sequential(nn.Conv2d(half, classes * 4, 1), nn.PixelShuffle(2))
        self.auxiliary2 = nn.Conv2d(quarter, classes, 1)
        self.auxiliary3 = nn.Conv2d(eighth, classes, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        x1 = self.down1(self.stem(standardise(x)))
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        x4 = self.down4(x3)
        x5 = self.dropout(self.context(self.down5(x4)))
        y3 = self.up3(self.up4(x5, x4), x3)
        y2 = self.up2(y3, x2)
        logits = self.head(self.up1(y2, x1))
        if self.training:
            return logits, self.auxiliary2(y2), self.auxiliary3(y3)
        return logits


def parameter_count(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())
