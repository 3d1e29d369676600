from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from edgekit.data.vocabulary import END, PAD
from edgekit.models.decoding import beam_search
from edgekit.models.factory import module_from_recipe
from edgekit.recipe.schema import load_recipe
from edgekit.runtime.tasks.translate import greedy_tokens

LENGTH = 12


@pytest.mark.parametrize("seed", [0])
def test_an_engine_writes_what_the_transformer_writes_with_its_cache(seed: int) -> None:
    recipe = load_recipe("transformer-tiny")
    module = module_from_recipe(recipe, seed=seed).eval()
    source_length, length = recipe.inputs[0].shape[1], LENGTH
    random = np.random.default_rng(seed)
    source = np.full((3, source_length), PAD, np.int64)
    for row, count in zip(source, (1, 4, source_length - 1), strict=True):
        row[:count] = random.integers(4, recipe.inputs[0].num_values, count)
        row[count] = END

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            logits = module(*(torch.from_numpy(feeds[name]) for name in ("source", "target")))
        return {"logits": logits.numpy()}

    assert greedy_tokens(run, source, length) == beam_search(module, torch.from_numpy(source), width=1, limit=length)
