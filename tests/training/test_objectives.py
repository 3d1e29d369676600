from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgekit.data.examples import Example
from edgekit.data.vocabulary import BEGIN, END, PAD
from edgekit.errors import DataError
from edgekit.models.factory import module_from_recipe
from edgekit.recipe.schema import Labels, Model, Train, load_recipe
from edgekit.runtime.tasks.translate import greedy_tokens
from edgekit.training.batches import Batch, Batches
from edgekit.training.objectives import objective_from_recipe


def test_teacher_forcing_and_greedy_decoding_agree_on_correct_texts(few: Any) -> None:
    recipe, count, limit = load_recipe("transformer-tiny"), 32, 40
    module = module_from_recipe(recipe)
    with torch.no_grad():
        module.get_parameter("embedding.weight")[END] *= 3  # otherwise decoding would not end
    source = next(Batches(few("spelling", count), recipe, size=count).in_order()).inputs[0]

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"logits": module(*(torch.from_numpy(feeds[name]) for name in ("source", "target"))).numpy()}

    written = greedy_tokens(run, source.numpy(), limit)

    # The targets are the decoded texts, with one wrong token in every second one.
    answers = [[token if token != PAD else 4 for token in tokens] for tokens in written]
    for answer in answers[::2]:
        answer[len(answer) // 2] = 4 + (answer[len(answer) // 2] + 1) % 30
    expected = [answer == tokens and len(tokens) < limit for answer, tokens in zip(answers, written, strict=True)]
    assert 5 < sum(expected) < count - 5

    targets = torch.full((count, limit + 1), PAD)
    for row, answer in zip(targets, answers, strict=True):
        row[: len(answer) + 1] = torch.tensor([*answer, END])
    inputs = torch.cat((torch.full((count, 1), BEGIN), targets[:, :-1]), dim=1)
    objective = objective_from_recipe(recipe, Train())
    with torch.inference_mode():
        objective.add({"logits": module(source, inputs)}, Batch((source, inputs), targets, ()))
    assert objective.figures() == {"sequence_accuracy": sum(expected) / count}


def test_a_text_with_one_wrong_token_is_wrong_and_padding_is_ignored() -> None:
    recipe = load_recipe("transformer-tiny")
    targets = torch.tensor([[5, 6, END, PAD], [5, 6, END, PAD]])
    logits = torch.zeros(2, 4, 43)
    logits.scatter_(2, targets[..., None], 1.0)
    logits[:, 3] = torch.rand(43, generator=torch.Generator().manual_seed(0))
    logits[1, 1, 9] = 2.0
    objective = objective_from_recipe(recipe, Train())
    objective.add({"logits": logits}, Batch((), targets, ()))
    assert objective.figures() == {"sequence_accuracy": 0.5}


def test_error_on_a_class_beyond_the_logits() -> None:
    recipe = msgspec.structs.replace(
        load_recipe("lenet"), labels=Labels(), model=Model(factory="edgekit.models.lenet:lenet5", parameters=61_706)
    )
    examples = (Example("line 3", np.zeros((8, 8), np.uint8), 12),)
    batch = Batch((torch.zeros(1, 1, 32, 32),), torch.tensor([12]), examples)
    with pytest.raises(DataError, match="line 3: expected one of the model's 10 classes, got 12"):
        objective_from_recipe(recipe, Train()).loss({"logits": torch.zeros(1, 10)}, batch)


def test_error_on_more_targets_than_the_model_has_outputs() -> None:
    recipe = load_recipe("linear-regression")
    examples = (Example("line 2", np.zeros(4, np.float32), np.zeros(3, np.float32)),)
    batch = Batch((torch.zeros(1, 4),), torch.zeros(1, 3), examples)
    with pytest.raises(DataError, match="line 2: expected 1 target values, the size of the model's output, got 3"):
        objective_from_recipe(recipe, Train()).loss({recipe.outputs[0]: torch.zeros(1, 1)}, batch)
