"""Lists the builds: recipes, ONNX files from installed packages, and PyTorch modules."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.recipe.schema import recipe_names
from edgekit.specs import Precision

__all__ = ["Case", "cases"]

DYNAMIC = ("--batch", "1:4:16")
RANGE = re.compile(r"\d+:\d+:\d+")
LIGHT = "onnx/backend/test/data/light"
RAPIDOCR = "rapidocr_onnxruntime/models"


@dataclass(frozen=True)
class Case:
    """One build.

    Attributes:
        name: name of the model.
        model: argument of `edgekit build`; empty if the package with the model is not installed.
        precision: ``fp32``, ``fp16`` or ``int8``.
        options: further options.
        needs: the package that contains the model.
        samples: calibration data instead of photos: ``bytes``, or the size of images of text: ``320x48``.
        light: whether its weights have to be generated first.
        own: whether it is a recipe.
    """

    name: str
    model: str
    precision: str
    options: tuple[str, ...] = ()
    needs: str = ""
    samples: str = ""
    light: bool = False
    own: bool = False

    @property
    def batch(self) -> str:
        """``open`` if the engine has a dynamic batch or dynamic input sizes, else ``fixed``."""
        return "open" if any(RANGE.search(option) for option in self.options) else "fixed"


HALF = ("--preprocess", "mean=0.5,0.5,0.5", "--preprocess", "std=0.5,0.5,0.5")
SAMPLES = {
    "ch_PP-OCRv4_det_infer": "320x320",
    "ch_PP-OCRv4_rec_infer": "320x48",
    "ch_ppocr_mobile_v2.0_cls_infer": "192x48",
    "magika": "bytes",
}
FOREIGN: dict[str, tuple[tuple[str, ...], ...]] = {
    f"{RAPIDOCR}/ch_PP-OCRv4_det_infer.onnx": (
        *(("--shape", "320x320", *HALF, *batch) for batch in ((), DYNAMIC)),
        ("--shape", "160:320:640x160:320:640", *HALF),
    ),
    f"{RAPIDOCR}/ch_PP-OCRv4_rec_infer.onnx": (
        *(("--shape", "48x320", *HALF, *batch) for batch in ((), DYNAMIC)),
        ("--input", "x:1:1:8x3x48x32:320:2048", *HALF),
    ),
    f"{RAPIDOCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx": tuple(
        ("--shape", "48x192", *HALF, *batch) for batch in ((), DYNAMIC)
    ),
    "magika/models/standard_v3_3/model.onnx": ((), DYNAMIC),
    f"{LIGHT}/light_bvlc_alexnet.onnx": ((),),
    f"{LIGHT}/light_densenet121.onnx": ((),),
    f"{LIGHT}/light_inception_v1.onnx": ((),),
    f"{LIGHT}/light_inception_v2.onnx": ((),),
    f"{LIGHT}/light_resnet50.onnx": ((),),
    f"{LIGHT}/light_shufflenet.onnx": ((),),
    f"{LIGHT}/light_squeezenet.onnx": ((),),
    f"{LIGHT}/light_vgg19.onnx": ((),),
    f"{LIGHT}/light_zfnet512.onnx": ((),),
}
"""Files in installed packages, and the options of each build."""


def cases(known: Collection[Precision]) -> Iterator[Case]:
    """Yields all builds: in INT8 and the fastest known float type; with fixed sizes, and dynamic ones if possible."""
    floats = [precision for precision in (Precision.FP16, Precision.FP32) if precision in known]
    precisions = [str(precision) for precision in (*floats[:1], Precision.INT8)]
    for name in recipe_names():
        for precision in precisions:
            for options in ((), DYNAMIC):
                yield Case(name, name, precision, options, own=True)
    for precision in precisions:
        for options in (("src:1x16x64",), ("src:1x16x64", *DYNAMIC), ("src:1x4:16:128x64",)):
            yield Case("nn.TransformerEncoder", "tools.zoo.transformer:encoder", precision, ("--input", *options))
    for file, all_options in FOREIGN.items():
        package = file.partition("/")[0]
        name = package if package == "magika" else Path(file).stem
        for precision in precisions:
            for options in all_options:
                yield Case(
                    name,
                    _installed(file),
                    precision,
                    options,
                    needs=package.replace("_", "-"),
                    samples=SAMPLES.get(name, ""),
                    light=file.startswith(LIGHT),
                )


def _installed(file: str) -> str:
    package, _, rest = file.partition("/")
    found = importlib.util.find_spec(package)
    path = Path(found.submodule_search_locations[0]) / rest if found and found.submodule_search_locations else None
    return str(path) if path is not None and path.is_file() else ""
