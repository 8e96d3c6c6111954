"""ResNets of basic blocks (He et al. 2016) with a global average pool or a flatten readout: networks that no kernel belongs to.

Batch normalisation and max pooling have no kernel here; everything else that trains a `Network` trains these. Weights are drawn
as He et al. (2015) do, N(0, 2/fan-out); the readout as PyTorch's linear layers, U(−1/√n, 1/√n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernreg.errors import KernregError
from kernreg.training import BLOCKS, READOUTS, STEMS


class ResNet(nn.Module):
    """(n, H, W, C) → (n, outputs)."""

    def __init__(
        self,
        input_shape: Sequence[int],
        width: int = 64,
        outputs: int = 10,
        blocks: Sequence[int] = BLOCKS["resnet18"],
        stem: str = "cifar",
        readout: str = "gap",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """A network with the weights of a seed.

        Args:
            input_shape: (H, W, C).
            width: channels of the first stage; every further one has twice as many at half the rows and columns.
            outputs: of the readout.
            blocks: of each stage.
            stem: "cifar", a 3×3 convolution, or "imagenet", a 7×7 one of stride 2 and a 3×3 max pool of stride 2.
            readout: "gap", from the mean over places, or "flatten", from all of them.
            seed: of the weights.
            dtype: of the parameters.

        Raises:
            KernregError: an unknown stem or readout, vectors, or sizes below 1.
        """
        super().__init__()
        if stem not in STEMS or readout not in READOUTS:
            raise KernregError(
                f"a ResNet has a stem of {', '.join(STEMS)} and a readout of {', '.join(READOUTS)}"
            )
        if len(input_shape) != 3:
            raise KernregError(f"a ResNet takes images (H, W, C), not rows of shape {tuple(input_shape)}")
        if min(width, outputs, len(blocks), *blocks) < 1:
            raise KernregError("width, outputs and the blocks of every stage must be at least 1")
        self.input_shape, self.outputs, self.flat = tuple(input_shape), outputs, readout == "flatten"
        first = [_conv(input_shape[2], width, 3 if stem == "cifar" else 7, 1 if stem == "cifar" else 2)]
        tail: list[nn.Module] = [nn.BatchNorm2d(width), nn.ReLU()]
        if stem == "imagenet":
            tail.append(nn.MaxPool2d(3, 2, padding=1))
        self.stem = nn.Sequential(*first, *tail)
        stages: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for i in range(count):
                wider = width << stage
                stages.append(BasicBlock(channels, wider, 2 if stage and not i else 1))
                channels = wider
        self.stages = nn.Sequential(*stages)
        self.eval()  # one image is no batch to take statistics of
        with torch.no_grad():
            places = math.prod(self._features(torch.zeros((1, *input_shape))).shape[2:])
        self.train()
        self.readout = nn.Linear(channels * (places if self.flat else 1), outputs)
        self.to(dtype)
        self.reset(seed)

    def forward(self, x: Tensor) -> Tensor:
        """f(x), (n, outputs), of (n, H, W, C)."""
        h = self._features(x)
        y: Tensor = self.readout(h.flatten(1) if self.flat else h.mean(dim=(2, 3)))
        return y

    @torch.no_grad()
    def reset(self, generator: int | torch.Generator) -> None:
        """Draw the weights anew, on the CPU, and forget the statistics of batch normalisation."""
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                drawn = torch.randn(module.weight.shape, generator=generator, dtype=torch.float64)
                module.weight.copy_(drawn * math.sqrt(2 / fan_out))
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                for p in (module.weight, module.bias):
                    uniform = torch.rand(p.shape, generator=generator, dtype=torch.float64) * 2 - 1
                    p.copy_(uniform / math.sqrt(module.in_features))

    def _features(self, x: Tensor) -> Tensor:
        h: Tensor = self.stages(self.stem(x.permute(0, 3, 1, 2)))
        return h


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside the identity, or a 1×1 convolution where the shape changes."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv(channels, wider, 3, stride),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
            _conv(wider, wider, 3, 1),
            nn.BatchNorm2d(wider),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != wider:
            self.shortcut = nn.Sequential(Every(stride), _conv(channels, wider, 1, 1), nn.BatchNorm2d(wider))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class Every(nn.Module):
    """Every stride-th row and column: what a 1×1 convolution of that stride reads.

    PyTorch 2.14 on the CPU writes beyond its memory where such a convolution has stride 2 and channels last.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


def _conv(channels: int, wider: int, filter: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, wider, filter, stride, padding=filter // 2, bias=False)
