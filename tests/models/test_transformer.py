from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit.data.generated.spelling import SPELLING_VOCABULARY, number_in_words
from edgekit.errors import ModelError
from edgekit.models import transformer as ours
from edgekit.models.attention import bias_from_visibility, causal_visibility
from edgekit.models.factory import module_from_recipe
from edgekit.models.weights.read import load_weights
from edgekit.recipe.schema import load_recipe

BATCH, SOURCES, TARGETS, WIDTH, HEADS, HIDDEN, LAYERS = 3, 7, 5, 32, 4, 48, 2
SIZES: dict[str, Any] = {"nhead": HEADS, "dim_feedforward": HIDDEN, "dropout": 0.0, "batch_first": True}

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:.*nested tensors is in prototype")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def trained(module: nn.Module) -> nn.Module:
    """Sets weights and biases that are neither 0 nor 1, as after training."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def same_names(a: nn.Module, b: nn.Module) -> bool:
    first, second = ({name: value.shape for name, value in m.state_dict().items()} for m in (a, b))
    return first == second


def seen(lengths: list[int]) -> torch.Tensor:
    return (torch.arange(SOURCES) < torch.tensor(lengths)[:, None]).long()


def padding(visible: torch.Tensor) -> torch.Tensor:
    return bias_from_visibility(visible)[:, None, None, :]


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_agrees_with_torch(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, norm_first=norm_first, **SIZES)
    theirs = trained(nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False))
    layers = [ours.EncoderLayer(WIDTH, HEADS, HIDDEN, norm_first=norm_first) for _ in range(LAYERS)]
    encoder = ours.Encoder(layers, WIDTH).eval()
    assert same_names(theirs, encoder)
    encoder.load_state_dict(theirs.state_dict())
    x, visible = torch.randn(BATCH, SOURCES, WIDTH), seen([SOURCES, 4, 1])
    torch.testing.assert_close(encoder(x), theirs(x), rtol=1e-5, atol=1e-5)
    expected = theirs(x, src_key_padding_mask=visible == 0)
    got = encoder(x, padding(visible))
    torch.testing.assert_close(got[visible == 1], expected[visible == 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_agrees_with_torch(norm_first: bool) -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, norm_first=norm_first, **SIZES)
    theirs = trained(nn.TransformerDecoder(layer, LAYERS, nn.LayerNorm(WIDTH)))
    layers = [ours.DecoderLayer(WIDTH, HEADS, HIDDEN, norm_first=norm_first) for _ in range(LAYERS)]
    decoder = ours.Decoder(layers, WIDTH).eval()
    assert same_names(theirs, decoder)
    decoder.load_state_dict(theirs.state_dict())
    x, memory, visible = torch.randn(BATCH, TARGETS, WIDTH), torch.randn(BATCH, SOURCES, WIDTH), seen([2, SOURCES, 5])
    causal = causal_visibility(TARGETS)
    expected = theirs(x, memory, tgt_mask=~causal, memory_key_padding_mask=visible == 0)
    got = decoder(x, memory, bias_from_visibility(causal), padding(visible))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_takes_torch_s_weights_and_agrees_with_it(norm_first: bool) -> None:
    theirs = trained(
        nn.Transformer(WIDTH, num_encoder_layers=LAYERS, num_decoder_layers=LAYERS, norm_first=norm_first, **SIZES)
    )
    module = ours.Transformer(WIDTH, HEADS, HIDDEN, LAYERS, norm_first=norm_first).eval()
    assert same_names(theirs, module)
    module.load_state_dict(theirs.state_dict())
    source, target = torch.randn(BATCH, SOURCES, WIDTH), torch.randn(BATCH, TARGETS, WIDTH)
    visible, causal = seen([SOURCES, 4, 1]), causal_visibility(TARGETS)
    expected = theirs(
        source,
        target,
        tgt_mask=~causal,
        src_key_padding_mask=visible == 0,
        memory_key_padding_mask=visible == 0,
    )
    got = module(source, target, padding(visible), bias_from_visibility(causal))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def small(length: int = 12, **options: Any) -> ours.Translator:
    module = ours.Translator(20, length=length, width=WIDTH, heads=HEADS, hidden=HIDDEN, layers=LAYERS, **options)
    return module.eval()


def test_core_of_a_translator_takes_torch_s_weights() -> None:
    theirs = nn.Transformer(WIDTH, num_encoder_layers=LAYERS, num_decoder_layers=LAYERS, **SIZES)
    module = small()
    module.transformer.load_state_dict(theirs.state_dict(), strict=True)
    core = {f"transformer.{name}" for name in theirs.state_dict()}
    assert set(module.state_dict()) == {*core, "embedding.weight"}


def test_a_file_of_torch_s_transformer_and_an_embedding_is_loaded(tmp_path: Path) -> None:
    theirs = nn.Transformer(WIDTH, num_encoder_layers=LAYERS, num_decoder_layers=LAYERS, **SIZES)
    torch.save({**theirs.state_dict(), "embedding.weight": torch.ones(20, WIDTH)}, tmp_path / "w.pt")
    module = small()
    load_weights(module, tmp_path / "w.pt")
    assert all(torch.equal(value, module.transformer.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert module.embedding.weight.eq(1).all()


def test_error_on_weights_of_a_transformer_with_more_layers(tmp_path: Path) -> None:
    torch.save(
        ours.Translator(20, length=12, width=WIDTH, heads=HEADS, hidden=HIDDEN, layers=3).state_dict(), tmp_path / "w"
    )
    with pytest.raises(ModelError, match=r"the first 'transformer\.encoder\.layers\.2\."):
        load_weights(small(), tmp_path / "w")


def test_positions_are_the_paper_s_formula() -> None:
    length, width = 9, 6
    got = ours.sinusoidal_positions(length, width).tolist()
    for t in range(length):
        for i in range(width // 2):
            angle = t / 10000 ** (2 * i / width)
            assert got[t][2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert got[t][2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_translator_equals_torch_modules_in_sequence() -> None:
    module = small()
    theirs = nn.Transformer(WIDTH, num_encoder_layers=LAYERS, num_decoder_layers=LAYERS, **SIZES).eval()
    theirs.load_state_dict(module.transformer.state_dict())
    source = torch.tensor([[4, 5, 6, 2, 0, 0], [7, 2, 0, 0, 0, 0]])
    target = torch.tensor([[1, 8, 9, 10], [1, 11, 0, 0]])
    table, places = module.embedding.weight, ours.sinusoidal_positions(6, WIDTH)
    x, y = (table[ids] * math.sqrt(WIDTH) + places[: ids.shape[1]] for ids in (source, target))
    pads = source == 0
    out = theirs(x, y, tgt_mask=~causal_visibility(4), src_key_padding_mask=pads, memory_key_padding_mask=pads)
    torch.testing.assert_close(module(source, target), out @ table.T, rtol=1e-5, atol=1e-5)


def test_source_padding_and_later_tokens_have_no_effect() -> None:
    module = small()
    source, target = torch.tensor([[4, 5, 6, 2]]), torch.tensor([[1, 8, 9, 10, 11]])
    longer = torch.tensor([[4, 5, 6, 2, 0, 0, 0]])
    padded = torch.tensor([[1, 8, 9, 0, 0]])
    expected = module(source, target)
    torch.testing.assert_close(module(longer, target), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(source, padded)[:, :3], expected[:, :3], rtol=1e-5, atol=1e-5)


def test_a_source_that_is_all_padding_gives_finite_outputs() -> None:
    source, target = torch.tensor([[4, 5, 2], [0, 0, 0]]), torch.tensor([[1, 8], [1, 0]])
    both, alone = small()(source, target), small()
    assert torch.isfinite(both).all()
    assert torch.isfinite(alone(source[1:], target[1:])).all()


def test_untrained_logits_have_the_expected_magnitude() -> None:
    module = module_from_recipe(load_recipe("transformer-tiny"))
    logits = module(torch.randint(4, 43, (4, 8)), torch.randint(4, 43, (4, 52)))
    assert 0.5 < logits.std() < 2


def test_dropout_is_only_active_in_training() -> None:
    module = small(dropout=0.5)
    source, target = torch.tensor([[4, 5, 2]]), torch.tensor([[1, 8]])
    assert torch.equal(module(source, target), module(source, target))
    module.train()
    assert not torch.equal(module(source, target), module(source, target))


def test_every_weight_gets_a_gradient() -> None:
    module = small(norm_first=True)
    module(torch.tensor([[4, 5, 2]]), torch.tensor([[1, 8]])).square().mean().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("name", ["transformer-tiny", "transformer-base"])
def test_recipes_have_the_multiply_accumulates_that_torch_counts(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        module = ours.transformer(**recipe.model.arguments).eval()
        ids = [torch.zeros(spec.shape, dtype=torch.int64) for spec in recipe.inputs]
    with FlopCounterMode(display=False) as counter:
        logits = module(*ids)
    assert counter.get_total_flops() == 2 * recipe.macs
    assert logits.shape == (1, recipe.inputs[1].shape[1], recipe.inputs[1].num_values)


def test_the_base_model_has_the_paper_s_sizes() -> None:
    # Table 3 of the paper says 65 million, with a vocabulary that it gives as about 37000.
    assert load_recipe("transformer-base").model.parameters == pytest.approx(65e6, rel=0.05)


def test_the_tiny_model_has_the_length_and_vocabulary_of_the_spelling_task() -> None:
    recipe = load_recipe("transformer-tiny")
    assert recipe.labels.names == SPELLING_VOCABULARY
    assert len(recipe.labels.names) == recipe.model.arguments["vocabulary"]
    source, target = recipe.inputs
    assert source.shape[1] > len("73373")
    assert target.shape[1] > len(number_in_words(73_373))
    assert recipe.model.arguments["length"] >= target.shape[1]


def test_error_on_positions_of_odd_width() -> None:
    with pytest.raises(ValueError, match="even width, got 5"):
        ours.sinusoidal_positions(4, 5)


def test_positions_are_a_rotation_for_each_step() -> None:
    # Section 3.5: a fixed step is a linear map of the positions, wherever it begins.
    table = ours.sinusoidal_positions(40, 16).double().numpy()
    pairs = table.reshape(40, 8, 2)
    z = pairs[..., 1] + 1j * pairs[..., 0]
    np.testing.assert_allclose(z[3:] / z[:-3], np.broadcast_to(z[3] / z[0], (37, 8)), atol=1e-5)
