"""Lets onnx_ir load sympy when it first computes with a symbolic dimension, and not when it is imported.

Loading sympy takes 0.3 to 0.5 s, most of the import of onnx_ir, and the build of an ONNX file does no arithmetic
on dimensions. `importlib.util.LazyLoader` is not used: `onnx_ir._symbolic_shapes` reads attributes of sympy when it is
imported, which would load it, and a lazy ``sympy`` in ``sys.modules`` breaks whoever imports a submodule of it first
(``from sympy.logic.boolalg import Boolean``, as PyTorch does): the submodule is then executed twice. The stand-ins here
are seen by onnx_ir alone. They are in ``sys.modules`` only while onnx_ir is imported.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

__all__ = ["load_sympy_on_first_use"]

_PACKAGE = "onnx_ir"
_LAZY = ("sympy", "onnx_ir._symbolic_shapes")


def load_sympy_on_first_use() -> None:
    """Has to be called before onnx_ir is imported; without effect afterwards, and if it was called before."""
    if _PACKAGE not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds onnx_ir where the other finders find it, with `_Loader` around its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _Loader(spec.loader))
        return spec


class _Loader:
    """Puts stand-ins into ``sys.modules`` for as long as the package is imported."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader  # resources are read through it
        stand_ins = {name: _StandIn(name) for name in _LAZY if name not in sys.modules}
        sys.modules.update(stand_ins)
        try:
            self._loader.exec_module(module)
        finally:
            for stand_in in stand_ins.values():
                stand_in.leave()


class _StandIn(types.ModuleType):
    """A module that is imported when one of its attributes is read."""

    def leave(self) -> None:
        """Makes room in ``sys.modules`` for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> object:
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)
