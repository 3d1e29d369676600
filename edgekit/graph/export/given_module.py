"""A module as a user gives it: without wrappers, in a form that PyTorch can export, and in evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from edgekit.errors import ExportError

__all__ = ["evaluation_mode", "exportable"]

_WRAPPERS: tuple[type[nn.Module], ...] = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_HALF = (torch.float16, torch.bfloat16)


def exportable(module: nn.Module) -> nn.Module:
    """Returns the module inside of the wrappers of `torch.compile`, data parallel training and averaged weights.

    Raises:
        ExportError: it is TorchScript, quantized by PyTorch, not on the CPU, or has all weights in half precision.
    """
    while isinstance(inner := getattr(module, _inside(module), None), nn.Module):
        module = inner
    _require_source(module)
    _require_floats_on_cpu(module)
    return module


def _inside(module: nn.Module) -> str:
    """Returns the attribute of a wrapper that has its module; the one of `torch.compile` is in no other module."""
    return "module" if isinstance(module, _WRAPPERS) else "_orig_mod"


def _require_source(module: nn.Module) -> None:
    for name, part in module.named_modules():
        kind, where = type(part), f", in '{name}'" if name else ""
        if isinstance(part, torch.jit.ScriptModule):
            raise ExportError(
                f"expected a module written in Python, got TorchScript{where}, which PyTorch does not export",
                hint="give the module before torch.jit.script or torch.jit.trace, or an ONNX file",
            )
        if ".quantized." in kind.__module__ and kind.__module__.startswith("torch.ao.nn."):
            raise ExportError(
                f"expected a module of floats, got one that PyTorch has quantized: {kind.__name__}{where}",
                hint="give the module as it was before: EdgeKit quantizes it; or an ONNX file that is quantized",
            )


def _require_floats_on_cpu(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise ExportError(
                f"expected a module on the CPU, got '{name}' on {tensor.device}",
                hint="move the module to the CPU: module.cpu()"
                if tensor.device.type != "meta"
                else "create the module with values, and load its weights",
            )
    floats = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    if floats and floats.issubset(_HALF):
        raise ExportError(
            f"expected a module in float32, got weights in {str(floats.pop()).removeprefix('torch.')}",
            hint="convert it, and the examples: module.float(). Precisions of the engine are chosen with `precision`",
        )


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, without compiling parts of it, and restores its own mode afterwards."""
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
    except NotImplementedError:  # a module that `torch.export` made has the mode that it was exported in
        training = []
    compiled = any(_is_compiled(part) for part in module.modules())
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        for part in training:
            part.training = True


def _is_compiled(module: Any) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
