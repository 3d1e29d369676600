import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from edgekit.data.input_statistics import InputStatistics
from edgekit.errors import ModelError
from edgekit.models.weights.origin import METADATA_KEY, WeightsOrigin, origin_of_weights
from edgekit.models.weights.read import load_weights
from edgekit.training.checkpoint import save_weights

INPUTS = InputStatistics(source="training", count=20, mean=0.25, std=0.5, contrast=1.0)


def test_facts_of_the_training_are_written_with_the_weights_and_read_again(tmp_path: Path) -> None:
    origin = WeightsOrigin(labels=("安全帽", "red"), inputs=INPUTS)
    file, module = tmp_path / "w.safetensors", nn.Linear(2, 2)
    save_weights(file, module, origin)
    assert origin_of_weights(file) == origin
    other = nn.Linear(2, 2)
    load_weights(other, file)
    assert torch.equal(module.weight, other.weight)
    with safetensors.safe_open(file, framework="pt") as content:
        assert json.loads(content.metadata()[METADATA_KEY])["labels"] == ["安全帽", "red"]


def test_weights_of_other_programs_say_nothing(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(2, 2))
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        assert origin_of_weights(tmp_path / name) == WeightsOrigin()


def test_damaged_facts_and_files_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    state = {"a": torch.zeros(2)}
    file.write_bytes(safetensors.torch.save(state, {METADATA_KEY: '{"labels": 7}'}))
    with pytest.raises(ModelError, match="the metadata 'edgekit' is damaged"):
        origin_of_weights(file)
    file.write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(ModelError, match="cannot be read"):
        origin_of_weights(file)
    with pytest.raises(ModelError, match="cannot be read"):
        origin_of_weights(tmp_path / "none.safetensors")
