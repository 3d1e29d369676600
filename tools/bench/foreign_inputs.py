"""Inputs of the models of the benchmark ``foreign``, each made from a seed: photos, pages, sounds, text, files.

Models with trained weights get inputs of the kind that they were trained for: weights meet their usual ranges there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from tools.bench.foreign_files import file_of_kind

__all__ = [
    "Feed", "bytes_of_files", "gray_line", "image_features", "melody", "pages", "page", "photos", "picture", "planes",
    "sentences", "spectrogram", "step_with_cache", "tokens", "tokens_and_encoding", "view", "voice",
]  # fmt: skip

Feed = dict[str, np.ndarray]
ROOT = Path(__file__).parents[2]
PHOTOS = sorted((ROOT / "calibration" / "sample").glob("*.*"))
WORDS = "edge kit runs on small boards and tells how long it took invoice total 1,204.50 EUR page 7 of 12".split()
PIXEL_MEAN, PIXEL_SCALE = 127.5, 127.5


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


def planes(pixels: np.ndarray, mean: float = 0.0, scale: float = 255.0) -> np.ndarray:
    """Returns (height, width, 3) uint8 pixels as (1, 3, height, width) float32, normalized."""
    return ((pixels.astype(np.float32).transpose(2, 0, 1) - mean) / scale)[None]


def photos(name: str, size: int, mean: float = 0.0, scale: float = 255.0) -> Callable[[int], Feed]:
    """Feeds square photos."""
    return lambda seed: {name: planes(picture(seed, size, size), mean, scale)}


def pages(name: str, width: int, height: int, lines: int) -> Callable[[int], Feed]:
    """Feeds pages of text with pixels in -1..1."""
    return lambda seed: {name: planes(page(seed, width, height, lines), PIXEL_MEAN, PIXEL_SCALE)}


def gray_line(name: str, width: int, height: int) -> Callable[[int], Feed]:
    """Feeds a line of text as one gray plane with pixels in -1..1."""

    def feed(seed: int) -> Feed:
        gray = np.asarray(Image.fromarray(page(seed, width, height, 1)).convert("L"), np.float32)
        return {name: ((gray - PIXEL_MEAN) / PIXEL_SCALE)[None, None]}

    return feed


def melody(seed: int) -> Feed:
    """Two seconds of a few decaying tones over noise, 22,050 samples a second."""
    random, t = np.random.default_rng(seed), np.arange(43844) / 22050
    sound = 0.01 * random.standard_normal(t.size)
    for start, pitch in zip(random.uniform(0, 1.6, 8), random.integers(40, 80, 8), strict=True):
        sound += 0.2 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * t) * np.exp(-3 * (t - start)) * (t > start)
    return {"serving_default_input_2:0": sound.astype(np.float32)[None, :, None]}


def voice(seed: int) -> Feed:
    """A frame of 576 samples at 16,000 a second, with a recurrent model's state: a sung vowel, or noise alone.

    The vowel has harmonics of one pitch, the loudest near its two formants, as voices have. The state is close to that
    at the start of a recording, so that what counts is the sound.
    """
    random, t = np.random.default_rng(seed), np.arange(576) / 16000
    sound = 0.003 * random.standard_normal(t.size)
    if seed % 8 < 6:
        pitch, low, high = random.uniform(90, 260), random.uniform(300, 800), random.uniform(900, 2400)
        harmonics = pitch * np.arange(1, int(4000 / pitch))
        loud = 1 / (1 + ((harmonics - low) / 120) ** 2) + 0.5 / (1 + ((harmonics - high) / 160) ** 2)
        phases = random.uniform(0, 2 * np.pi, harmonics.size)
        sound += 0.1 * (loud @ np.sin(2 * np.pi * harmonics[:, None] * t + phases[:, None]))
    state = 0.1 * random.standard_normal((2, 1, 128))
    return {
        "input": sound.astype(np.float32)[None], "state": state.astype(np.float32), "sr": np.array(16000, np.int64)
    }  # fmt: skip


def spectrogram(seed: int) -> Feed:
    """A made log-mel spectrogram of 30 s: 80 bands whose values change slowly, clipped as Whisper's are."""
    walk = 0.1 * np.cumsum(np.random.default_rng(seed).normal(size=(1, 80, 3000)), axis=-1)
    centred = walk - walk.mean(axis=-1, keepdims=True)
    return {"input_features": np.clip(centred / centred.std(), -1, 1.5).astype(np.float32)}


def tokens(names: tuple[str, str], vocabulary: int, length: int) -> Callable[[int], Feed]:
    """Feeds random tokens, frequent ones often, and their mask."""

    def feed(seed: int) -> Feed:
        random = np.random.default_rng(seed)
        used = int(random.integers(length // 3, length + 1))
        ids = _random_tokens(random, vocabulary, length)
        ids[:, used:] = 0
        return {names[0]: ids, names[1]: (np.arange(length) < used).astype(np.int64)[None]}

    return feed


def tokens_and_encoding(seed: int) -> Feed:
    """32 random tokens, and what an encoder made of 30 s of sound: (1, 1500, 384)."""
    random = np.random.default_rng(seed)
    encoding = random.normal(size=(1, 1500, 384)).astype(np.float32)
    return {"decoder_input_ids": _random_tokens(random, 51000, 32), "encoder_hidden_states": encoding}


def step_with_cache(seed: int) -> Feed:
    """One token behind 127 others, whose keys and values of four layers, (1, 2, 127, 64) each, are inputs."""
    random = np.random.default_rng(seed)
    feed: Feed = {
        "input_ids": random.integers(0, 32000, (1, 1)), "attention_mask": np.ones((1, 128), np.int64)
    }  # fmt: skip
    for layer in range(4):
        for kind in ("key", "value"):
            feed[f"past.{layer}.{kind}"] = random.normal(size=(1, 2, 127, 64)).astype(np.float32)
    return feed


def _random_tokens(random: np.random.Generator, vocabulary: int, length: int) -> np.ndarray:
    return np.minimum(random.zipf(1.3, length), vocabulary - 1).astype(np.int64)[None]


def sentences(length: int) -> Callable[[int], Feed]:
    """Feeds one to three English sentences as tokens of BERT's uncased vocabulary, padded to a length, and their mask.

    Even and odd seeds never have a sentence in common.
    """

    def feed(seed: int) -> Feed:
        known = _sentences()
        ids: list[int] = []
        for index in range(1 + seed // 2 % 3):
            more = known[(seed + 2 * index) % len(known)]
            # Sentences stand between one first and one last token.
            ids = ids[:-1] + more[1:] if ids else more
        ids = ids[: length - 1] + ids[-1:] if len(ids) > length else ids
        used = len(ids)
        padded = np.array([ids + [0] * (length - used)], np.int64)
        return {"input_ids": padded, "attention_mask": (np.arange(length) < used).astype(np.int64)[None]}

    return feed


@cache
def _sentences() -> list[list[int]]:
    return [row["ids"] for row in json.loads(Path(__file__).with_name("sentences.json").read_text())]


def bytes_of_files(seed: int) -> Feed:
    """The first and last 1,024 bytes of a file; 256 stands where a file has no more."""
    content = np.frombuffer(file_of_kind(seed), np.uint8)
    part = np.full((1, 2048), 256, np.int32)
    first, last = content[:1024], content[-1024:]
    part[0, : first.size] = first
    part[0, 2048 - last.size :] = last
    return {"bytes": part}


def image_features(name: str, size: int) -> Callable[[int], Feed]:
    """Feeds square photos with pixels in -1..1."""
    return photos(name, size, PIXEL_MEAN, PIXEL_SCALE)
