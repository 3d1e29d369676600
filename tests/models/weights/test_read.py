from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from edgekit.errors import ModelError
from edgekit.models.weights.read import load_weights

State = dict[str, torch.Tensor]


def module(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()


def error_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_weights(module(1), path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        lambda state: {"model": {"state_dict": state}, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state: {"ema_state_dict": state, "loss": {"train": torch.tensor(0.5)}},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {name.replace("0.", "0._orig_mod."): value for name, value in state.items()},
        lambda state: {"state_dict": {f"net.model.{name}": value for name, value in state.items()}},
        lambda state: AveragedModel(module()).state_dict(),
    ],
    ids=[
        *("plain", "state_dict", "model", "data-parallel", "no-counter", "nested", "averaged-alone", "compiled"),
        *("compiled-parallel", "compiled-part", "lightning", "averaged-model"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.weights"])
def test_state_dicts_of_torch_save_are_loaded(wrap: Callable[[State], Any], name: str, tmp_path: Path) -> None:
    torch.save(wrap(module().state_dict()), tmp_path / name)
    loaded = module(1)
    load_weights(loaded, tmp_path / name)
    assert same(loaded, module())


class Wrapping(nn.Module):
    """A module of the user that names a part as `torch.nn.DataParallel` does."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.module = module(seed)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_part_called_module_keeps_its_name(prefix: str, tmp_path: Path) -> None:
    torch.save({f"{prefix}{name}": value for name, value in Wrapping().state_dict().items()}, tmp_path / "a.pt")
    loaded = Wrapping(1)
    load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, Wrapping())


def test_averaged_weights_beside_the_trained_ones_are_noted(tmp_path: Path) -> None:
    torch.save({"model": module().state_dict(), "ema": module(2).state_dict()}, tmp_path / "a.pt")
    loaded = module(1)
    found = load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, module())
    assert "are those of 'model' in the file, which also has 'ema'" in found.note


def test_error_on_the_weights_of_several_models(tmp_path: Path) -> None:
    torch.save({"student": module().state_dict(), "teacher": module(2).state_dict()}, tmp_path / "a.pt")
    assert "got those of several: 'student', 'teacher'" in error_of(tmp_path / "a.pt")


def test_error_on_names_with_several_first_words(tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in module().state_dict().items()}
    torch.save({**state, "criterion.weight": torch.ones(2)}, tmp_path / "a.pt")
    message = error_of(tmp_path / "a.pt")
    assert "expected a tensor '0.weight' (4, 3, 3, 3), got none\nsave only the tensors" in message
    assert "begin with 'model.'" in message


def test_error_on_a_torchscript_file_says_how_to_save_its_tensors(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch advises against new TorchScript files
        torch.jit.save(torch.jit.trace(module(), torch.zeros(1, 3, 8, 8)), tmp_path / "a.pt")
    assert "got a TorchScript file\nsave its tensors: torch.save(torch.jit.load(" in error_of(tmp_path / "a.pt")


def test_legacy_torch_files_are_loaded(tmp_path: Path) -> None:
    torch.save(module().state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    loaded = module(1)
    load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, module())


def test_safetensors_are_loaded(tmp_path: Path) -> None:
    safetensors.torch.save_file(module().state_dict(), tmp_path / "a.safetensors")
    loaded = module(1)
    load_weights(loaded, tmp_path / "a.safetensors")
    assert same(loaded, module())


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in module().state_dict().items()
    }
    torch.save(state, tmp_path / "a.pt")
    loaded = module(1)
    load_weights(loaded, tmp_path / "a.pt")
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight, module()[0].weight.half().float())


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file], ids=["pt", "safetensors"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda s: s.update({"2.weight": torch.zeros(9, 4, 1, 1)}),
            "'2.weight': expected (2, 4, 1, 1), got (9, 4, 1, 1)",
        ),
        (lambda s: s.pop("1.bias"), "expected a tensor '1.bias' (4,), got none"),
        (lambda s: s.update({"x": torch.zeros(1)}), "got 1 extra, the first 'x'"),
        (lambda s: s.update({"1.bias": torch.full((4,), torch.nan)}), "'1.bias': expected finite numbers"),
        (lambda s: s.update({"1.bias": torch.zeros(4, dtype=torch.int8)}), "expected torch.float32, got torch.int8"),
    ],
)
def test_error_names_the_first_tensor_that_does_not_fit(
    save: Callable[[State, Path], None], change: Callable[[State], Any], expected: str, tmp_path: Path
) -> None:
    state = module().state_dict()
    change(state)
    save(state, tmp_path / "weights")
    assert expected in error_of(tmp_path / "weights")


def test_error_on_another_model_s_weights_does_not_suggest_names(tmp_path: Path) -> None:
    torch.save({f"linear{i}.weight": torch.zeros(1) for i in range(300)}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"expected a tensor '0.weight' \(4, 3, 3, 3\), got none") as caught:
        load_weights(module(), tmp_path / "a.pt")
    assert caught.value.hint == "the file is for another model"


class Planted:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("planted"),))


def test_a_pickle_with_code_is_rejected_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Planted()))
    assert "got a pickle of other objects" in error_of(tmp_path / "a.pt")
    torch.save(Planted(), tmp_path / "b.pt")
    assert "got a pickle of other objects" in error_of(tmp_path / "b.pt")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], "text"])
def test_a_pickle_of_other_objects_is_rejected(content: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps(content))
    assert "save them with torch.save" in error_of(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [{"epoch": 1}, [torch.zeros(1)], torch.zeros(2), {}, {"model": {}}])
def test_error_on_a_torch_file_without_tensors_by_name(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "expected tensors by name" in error_of(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "got an empty file"),
        (b"\n<!DOCTYPE html><html>404</html>", "got an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer"),
        (b"hello, here are no weights", "got a file that begins with b'hello, here "),
        (b"PK\x03\x04 and nothing else", "not a file written by torch.save"),
        (struct.pack("<q", 2) + b"{}x", "not a valid .safetensors file"),
        (struct.pack("<q", 99) + b"{}", "not a valid .safetensors file"),
    ],
)
@pytest.mark.parametrize("name", ["a.weights", "a.pt", "a.safetensors"])
def test_error_says_what_the_file_is_instead(content: bytes, expected: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in error_of(tmp_path / name)


def test_error_on_a_missing_file_and_on_a_folder(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "none.weights")
    assert "got a folder" in error_of(tmp_path)


def test_error_on_a_truncated_torch_file(tmp_path: Path) -> None:
    torch.save(module().state_dict(), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    assert "not a file written by torch.save" in error_of(tmp_path / "a.pt")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b""]), st.binary(max_size=200))
def test_any_bytes_only_raise_model_error(tmp_path: Path, start: bytes, rest: bytes) -> None:
    (tmp_path / "fuzz").write_bytes(start + rest)
    assert "weights" in error_of(tmp_path / "fuzz")
