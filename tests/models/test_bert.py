from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit.errors import ModelError
from edgekit.models.bert import Bert, SentenceEncoder, minilm
from edgekit.models.weights.read import load_weights
from edgekit.recipe.schema import load_recipe

VOCABULARY, LENGTH, WIDTH, HEADS, HIDDEN, LAYERS = 50, 16, 32, 4, 64, 2

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:.*nested tensors is in prototype")


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes in ``model.safetensors`` of sentence-transformers/all-MiniLM-L6-v2."""
    width, hidden = 384, 1536
    found: dict[str, tuple[int, ...]] = {
        "embeddings.position_ids": (1, 512),
        "embeddings.word_embeddings.weight": (30522, width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    square, up, down = (width, width), (hidden, width), (width, hidden)
    linear = {
        "attention.self.query": square,
        "attention.self.key": square,
        "attention.self.value": square,
        "attention.output.dense": square,
        "intermediate.dense": up,
        "output.dense": down,
    }
    for layer in range(6):
        for part, shape in linear.items():
            found[f"encoder.layer.{layer}.{part}.weight"] = shape
            found[f"encoder.layer.{layer}.{part}.bias"] = shape[:1]
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            found[f"encoder.layer.{layer}.{part}.weight"] = (width,)
            found[f"encoder.layer.{layer}.{part}.bias"] = (width,)
    return found


def small(kind: type[Bert] = Bert, seed: int = 0) -> Bert:
    torch.manual_seed(seed)
    module = kind(VOCABULARY, LENGTH, WIDTH, HEADS, HIDDEN, LAYERS).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def sentences() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randint(1, VOCABULARY, (3, 7)), (torch.arange(7) < torch.tensor([7, 4, 1])[:, None]).long()


def test_state_dict_is_that_of_the_published_file() -> None:
    with torch.device("meta"):
        module = minilm()
    expected = published()
    del expected["embeddings.position_ids"]  # the numbers 0 to 511
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == expected


def test_the_table_of_the_published_file_covers_all_its_bytes() -> None:
    # safetensors: 8 bytes, a header in JSON filled with spaces to a multiple of 8, and the data.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in sorted(published().items(), key=lambda item: (item[0] != "embeddings.position_ids", item[0])):
        kind, size = ("I64", 8) if name.endswith("position_ids") else ("F32", 4)
        end = offset + size * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    written = len(json.dumps(header, separators=(",", ":")))
    assert 8 + written + -written % 8 + offset == load_recipe("minilm").weights["sentences"].size_bytes


def test_parameters_are_those_of_the_recipe() -> None:
    with torch.device("meta"):
        module = minilm()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert parameters == load_recipe("minilm").model.parameters == 22_713_216


def test_recipe_has_the_multiply_accumulates_that_torch_counts() -> None:
    recipe = load_recipe("minilm")
    with torch.device("meta"):
        module = minilm(**recipe.model.arguments).eval()
        ids = [torch.zeros(spec.shape, dtype=torch.int64) for spec in recipe.inputs]
    with FlopCounterMode(display=False) as counter:
        embedding = module(*ids)
    assert counter.get_total_flops() == 2 * recipe.macs
    assert embedding.shape == (1, 384)


def torch_layer(layer: nn.Module) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the weights of an EdgeKit layer."""
    own = layer.state_dict()
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
    }
    state = {f"{a}.{kind}": own[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        state[f"self_attn.in_proj_{kind}"] = torch.cat(
            [own[f"attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        )
    theirs.load_state_dict(state, strict=True)
    return theirs


@torch.no_grad()
def test_vectors_agree_with_torch_s_layers() -> None:
    module, (tokens, visible) = small(), sentences()
    state = module.state_dict()
    x = (
        state["embeddings.word_embeddings.weight"][tokens]
        + state["embeddings.position_embeddings.weight"][None, :7]
        + state["embeddings.token_type_embeddings.weight"][0]
    )
    norm = state["embeddings.LayerNorm.weight"], state["embeddings.LayerNorm.bias"]
    x = nn.functional.layer_norm(x, (WIDTH,), *norm, eps=1e-12)
    for layer in module.encoder.layer:
        x = torch_layer(layer)(x, src_key_padding_mask=visible == 0)
    got = module(tokens, visible)
    torch.testing.assert_close(got[visible == 1], x[visible == 1], rtol=1e-5, atol=1e-5)
    pooled = torch.tanh(x[:, 0] @ state["pooler.dense.weight"].T + state["pooler.dense.bias"])
    torch.testing.assert_close(module.pooled(got), pooled, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_embedding_is_the_normalized_mean_without_padding() -> None:
    module, (tokens, visible) = small(SentenceEncoder), sentences()
    vectors = small()(tokens, visible)
    got = module(tokens, visible)
    for row in range(3):
        mean = vectors[row, : int(visible[row].sum())].mean(0)
        torch.testing.assert_close(got[row], mean / mean.norm(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_has_no_effect() -> None:
    module, (tokens, visible) = small(SentenceEncoder), sentences()
    other = tokens.where(visible == 1, torch.full_like(tokens, 3))
    torch.testing.assert_close(module(tokens, visible), module(other, visible), rtol=1e-6, atol=1e-6)
    alone = module(tokens[1:2, :4], visible[1:2, :4])
    torch.testing.assert_close(module(tokens, visible)[1:2], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_sentence_that_is_all_padding_has_an_embedding_of_zeros() -> None:
    module, (tokens, visible) = small(SentenceEncoder), sentences()
    visible[2] = 0
    got = module(tokens, visible)
    assert got[2].eq(0).all()
    torch.testing.assert_close(got[:2].norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("places", [True, False], ids=["with-position-ids", "without"])
def test_files_of_hugging_face_are_loaded(prefix: str, places: bool, tmp_path: Path) -> None:
    source = small(SentenceEncoder)
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    if places:
        state[f"{prefix}embeddings.position_ids"] = torch.arange(LENGTH)[None]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    loaded = small(SentenceEncoder, seed=5)
    load_weights(loaded, tmp_path / "model.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), source.state_dict().values(), strict=True)
    )


def test_error_on_weights_of_a_model_with_more_layers(tmp_path: Path) -> None:
    state = dict(small().state_dict())
    state["encoder.layer.2.output.dense.bias"] = torch.zeros(WIDTH)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 extra, the first 'encoder\.layer\.2\.output\.dense\.bias'"):
        load_weights(small(), tmp_path / "model.safetensors")


@torch.no_grad()
def test_random_weights_keep_the_magnitude() -> None:
    torch.manual_seed(0)
    module = minilm(vocabulary=1000).eval()
    vectors = Bert.forward(module, torch.randint(0, 1000, (2, 32)), torch.ones(2, 32, dtype=torch.int64))  # type: ignore[arg-type]
    assert 0.9 < vectors.std() < 1.1
    a, b = module(torch.randint(0, 1000, (2, 32)), torch.ones(2, 32, dtype=torch.int64))
    assert a @ b < 0.999
