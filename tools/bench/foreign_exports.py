"""Exports models of other packages with random weights, for the benchmark ``foreign``.

Random weights give networks whose outputs hardly depend on the input. So batch norms get scales and offsets that vary
and the statistics of photos, and the products of token models larger weights, as training gives them.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tools.bench.foreign_models import MODELS

__all__ = ["export"]

OPERATORS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
"""Of torchvision: it describes them when it is imported, which fails if its library is for another build of torch."""

WEIGHT_SCALE = 2.5
REPARAMETERIZED = ("fastvit_t8", "repvit_m1")
TOKEN_MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": (
        "BertModel", "BertConfig",
        {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048},
        "last_hidden_state",
    ),
    "distilbert": (
        "DistilBertForSequenceClassification", "DistilBertConfig", {"n_layers": 6, "num_labels": 2}, "logits",
    ),
    "clip_text": ("CLIPTextModelWithProjection", "CLIPTextConfig", {"num_hidden_layers": 6}, "text_embeds"),
    "llama": (
        "LlamaForCausalLM", "LlamaConfig",
        {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
         "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64},
        "logits",
    ),
}  # fmt: skip
"""By name: the class of transformers, its configuration, what differs from it, and the output."""


class _Output(torch.nn.Module):
    """A token model that returns one tensor."""

    def __init__(self, model: torch.nn.Module, output: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.output, self.options = model, output, options

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(self.model(input_ids=tokens, attention_mask=mask, **self.options), self.output)
        return result


def export(names: Sequence[str], folder: Path) -> list[str]:
    """Exports models into a folder, and returns the names of those whose package is missing, with the reason."""
    lacking = []
    _declare_operators()
    for name in names:
        package, run = _exporter(name)
        try:
            importlib.import_module(package)
        except ImportError as e:
            lacking.append(f"{name} ({e})")
            continue
        torch.manual_seed(0)
        run(name, folder / f"{name}.onnx")
    return lacking


def _declare_operators() -> None:
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        _DECLARED.append(library)
        for operator in OPERATORS:
            library.define(operator)


_DECLARED: list[torch.library.Library] = []
"""Operators vanish with their library."""


def _exporter(name: str) -> tuple[str, Callable[[str, Path], None]]:
    if name in TOKEN_MODELS:
        return "transformers", _token_model
    return ("ultralytics", _yolo) if name.startswith("yolo") else ("timm", _image_model)


def _image_model(name: str, output: Path) -> None:
    import timm
    from timm.utils.model import reparameterize_model

    model = timm.create_model(name, pretrained=False, exportable=True).eval()
    photos = torch.cat([torch.from_numpy(MODELS[name].feed(2 * index)["x"]) for index in range(8)])
    _settle(model, photos)
    if name in REPARAMETERIZED:
        model = reparameterize_model(model)
    _write(model, (photos[:1],), ["x"], output)


def _token_model(name: str, output: Path) -> None:
    import transformers

    kind, configuration, changes, returned = TOKEN_MODELS[name]
    model = getattr(transformers, kind)(getattr(transformers, configuration)(**changes))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in path:
                parameter.mul_(WEIGHT_SCALE)
            if parameter.ndim == 1 and "norm" in path.lower() and path.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
    options = {"use_cache": False} if name == "llama" else {}
    feed = MODELS[name].feed(0)
    _write(_Output(model, returned, options).eval(), tuple(map(torch.from_numpy, feed.values())), list(feed), output)


def _yolo(name: str, output: Path) -> None:
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")
    from ultralytics import YOLO

    model = YOLO(f"{name}.yaml")
    model.model.eval()
    photos = [torch.from_numpy(MODELS[name].feed(2 * index)["images"]) for index in range(8)]
    _settle(model.model, torch.cat(photos)[..., ::2, ::2])
    with tempfile.TemporaryDirectory() as place:
        model.model.yaml_file = str(Path(place) / name)
        model.ckpt_path = str(Path(place) / f"{name}.pt")
        made = Path(model.export(format="onnx", imgsz=640))
        made.replace(output)


def _settle(model: torch.nn.Module, batch: torch.Tensor) -> None:
    """Gives batch norms scales, offsets and the statistics of a batch."""
    norms = [each for each in model.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        if norm.weight is not None:
            with torch.no_grad():
                norm.weight.uniform_(0.6, 1.6)
                norm.bias.normal_(0, 0.3)
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        model(batch)
    for norm in norms:
        norm.eval()


def _write(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], names: list[str], output: Path) -> None:
    torch.onnx.export(
        model, inputs, output, input_names=names, output_names=["y"], dynamo=True, external_data=False, verbose=False
    )
