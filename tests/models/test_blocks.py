from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgekit.models.activations import LeakyReLU, ReLU
from edgekit.models.blocks import LEAKY_SLOPE, NORM_EPSILON, ConvNormAct, NiNBlock, Residual, initialize

torch.set_num_threads(1)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_conv_norm_act_defaults_to_darknets() -> None:
    block = ConvNormAct(3, 8, 3, stride=2)
    names = "conv.weight norm.weight norm.bias norm.running_mean norm.running_var norm.num_batches_tracked"
    assert list(block.state_dict()) == names.split()
    assert isinstance(block.norm, nn.BatchNorm2d) and block.norm.eps == NORM_EPSILON
    assert isinstance(block.act, LeakyReLU) and block.act.negative_slope == LEAKY_SLOPE
    assert block(noise(1, 3, 9, 9)).shape == (1, 8, 5, 5)


def test_conv_norm_act_with_other_parts_equals_torch() -> None:
    block = ConvNormAct(8, 16, 5, stride=2, padding=0, groups=4, epsilon=1e-3, act=ReLU()).eval()
    conv = nn.Conv2d(8, 16, 5, stride=2, groups=4, bias=False)
    norm = nn.BatchNorm2d(16, eps=1e-3)
    nn.init.uniform_(norm.running_var, 0.0, 0.01)  # so that epsilon has an effect
    conv.load_state_dict(block.conv.state_dict())
    block.norm.load_state_dict(norm.state_dict())
    x = noise(2, 8, 11, 11)
    torch.testing.assert_close(block(x), torch.relu(norm.eval()(conv(x))))


def test_convolution_without_norm_has_a_bias() -> None:
    block = ConvNormAct(4, 6, 1, norm=False, act=nn.Identity())
    assert list(block.state_dict()) == ["conv.weight", "conv.bias"]
    x = noise(1, 4, 5, 5)
    torch.testing.assert_close(block(x), block.conv(x))


def test_nin_block_is_an_mlp_at_every_pixel() -> None:
    block = NiNBlock(3, 8, 3, stride=2, padding=1, last_channels=5)
    x = noise(2, 3, 8, 8)
    patches = nn.functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
    for conv in (block.conv, block.mix1, block.mix2):
        patches = torch.relu(nn.functional.linear(patches, conv.weight.flatten(1), conv.bias))
    expected = patches.transpose(1, 2).reshape(2, 5, 4, 4)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_initialized_layers_keep_the_magnitude(slope: float) -> None:
    layers: list[nn.Module] = []
    for _ in range(20):
        layers += [nn.Linear(256, 256), nn.LeakyReLU(slope)]
    deep = nn.Sequential(*layers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        initialize(deep, slope=slope)
    with torch.inference_mode():
        before, after = noise(64, 256), deep(noise(64, 256))
    # the mean square is the variance of the next layer's output
    gained = after.square().mean() / before.square().mean() * (2 / (1 + slope**2))
    assert 0.3 < gained < 3
    assert all(not layer.bias.any() for layer in deep if isinstance(layer, nn.Linear))


def test_more_residual_branches_start_smaller() -> None:
    tower = nn.Sequential(*[Residual(8) for _ in range(16)])
    initialize(tower)
    assert {scale for block in tower for scale in block.expand.norm.weight.tolist()} == {1 / math.sqrt(16)}
