"""ResNets: shapes, readouts, seeds, refusals."""

from __future__ import annotations

import pytest
import torch

from kernreg.errors import KernregError
from kernreg.finite.resnet import ResNet


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("readout", ["gap", "flatten"])
def test_resnets_see_images_and_read_out_means_or_places(stem: str, readout: str) -> None:
    net = ResNet((16, 13, 2), 4, 3, (1, 2), stem, readout, seed=1)
    rows, columns = (8, 7) if stem == "cifar" else (2, 2)
    assert net.readout.in_features == 8 * (rows * columns if readout == "flatten" else 1)
    x = torch.randn(5, 16, 13, 2)
    assert net(x).shape == (5, 3)
    assert net.stages[1].branch[0].stride == (2, 2)
    net.reset(1)
    net.eval()
    before = net(x)
    net.train()
    net(x)
    net.reset(1)
    net.eval()
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)


def test_resnets_refuse_what_they_are_not() -> None:
    with pytest.raises(KernregError, match="stem of cifar, imagenet"):
        ResNet((8, 8, 1), stem="mnist")
    with pytest.raises(KernregError, match="takes images"):
        ResNet((64,))
