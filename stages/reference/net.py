"""The default model: small enough to train while one waits, and with everything in it that an audit looks at."""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            norm=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
        )
    )


class DigitsNet(nn.Module):
    """Three blocks of convolution, batch norm and ReLU, global average pooling, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = _block(1, 16)
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = _block(16, 32)
        self.pool2 = nn.MaxPool2d(2)
        self.block3 = _block(32, 64)
        self.pool3 = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(64, 10)

    def forward(self, image: Float[Tensor, "image 1 y x"]) -> Float[Tensor, "image 10"]:
        """Logits of the ten digits."""
        hidden = self.pool1(self.block1(image))
        hidden = self.pool2(self.block2(hidden))
        return self.head(self.flatten(self.pool3(self.block3(hidden))))
