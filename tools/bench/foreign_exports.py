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

import torch

from tools.bench.foreign_models import MODELS
from tools.bench.foreign_transformers import TRANSFORMERS, export_transformers

__all__ = ["export"]

OPERATORS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
"""Of torchvision: it describes them when it is imported, which fails if its library is for another build of torch."""

REPARAMETERIZED = ("fastvit_t8", "repvit_m1", "mobileone_s0")
SETTLING_PHOTOS, SETTLING_PHOTOS_OF_LARGE = 8, 2


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
        try:
            run(name, folder / f"{name}.onnx")
        except Exception as e:  # the exporters of each package raise types of their own
            lacking.append(f"{name} ({type(e).__name__}: {str(e)[:300]})")
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
    if name in TRANSFORMERS:
        return "transformers", export_transformers
    return ("ultralytics", _yolo) if name.startswith(("yolo", "rtdetr")) else ("timm", _image_model)


def _image_model(name: str, output: Path) -> None:
    import timm
    from timm.utils.model import reparameterize_model

    model = timm.create_model(name, pretrained=False, exportable=True).eval()
    photos = torch.cat([torch.from_numpy(MODELS[name].feed(2 * index)["x"]) for index in range(SETTLING_PHOTOS)])
    _settle(model, photos)
    if name in REPARAMETERIZED:
        model = reparameterize_model(model)
    torch.onnx.export(
        model, (photos[:1],), output, input_names=["x"], output_names=["y"], dynamo=True, external_data=False,
        verbose=False,
    )  # fmt: skip


def _yolo(name: str, output: Path) -> None:
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")
    from ultralytics import RTDETR, YOLO

    large = name.startswith("rtdetr")
    model = (RTDETR if large else YOLO)(f"{name}.yaml")
    model.model.eval()
    number = SETTLING_PHOTOS_OF_LARGE if large else SETTLING_PHOTOS
    photos = torch.cat([torch.from_numpy(MODELS[name].feed(2 * index)["images"]) for index in range(number)])
    # RT-DETR's positions fit one size.
    _settle(model.model, photos if large else photos[..., ::2, ::2])
    with tempfile.TemporaryDirectory() as place:
        model.model.yaml_file = str(Path(place) / name)
        model.ckpt_path = str(Path(place) / f"{name}.pt")
        made = Path(model.export(format="onnx", imgsz=photos.shape[-1]))
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
