"""Makes files of many kinds, the same in each run: what a model that tells them apart is measured on."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import pickle
import random
import sqlite3
import wave
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

__all__ = ["file_of_kind"]

WORDS = "edge kit engine graph layer tensor scale range weight input output board model batch stream frame box".split()


def file_of_kind(seed: int) -> bytes:
    """Returns the content of a file; consecutive seeds have different kinds, and each kind many contents."""
    rng = random.Random(seed)
    return KINDS[seed % len(KINDS)](rng)


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randrange(4, 12)))


def _python(rng: random.Random) -> bytes:
    lines = ["import math", "", ""]
    for index in range(rng.randrange(2, 40)):
        name, argument = rng.choice(WORDS), rng.choice(WORDS)
        lines += [f"def {name}_{index}({argument}: float) -> float:", f'    """Returns {_sentence(rng)}."""']
        lines += [f"    return math.sqrt({argument} * {rng.random():.3f})", "", ""]
    return "\n".join(lines).encode()


def _c(rng: random.Random) -> bytes:
    lines = ["#include <stdio.h>", "#include <stdint.h>", ""]
    for index in range(rng.randrange(2, 40)):
        lines += [f"/* {_sentence(rng)} */", f"static int32_t {rng.choice(WORDS)}_{index}(int32_t x) {{"]
        lines += [f"    return (x * {rng.randrange(99)}) >> {rng.randrange(8)};", "}", ""]
    return "\n".join(lines).encode()


def _markdown(rng: random.Random) -> bytes:
    parts = [f"# {_sentence(rng)}"]
    for _ in range(rng.randrange(2, 30)):
        parts.append(
            rng.choice([f"## {_sentence(rng)}", f"{_sentence(rng)}, `{rng.choice(WORDS)}`.", "- " + _sentence(rng)])
        )
    return "\n\n".join(parts).encode()


def _json(rng: random.Random) -> bytes:
    rows = [{"id": i, "name": _sentence(rng), "score": rng.random()} for i in range(rng.randrange(1, 60))]
    return json.dumps({"items": rows}, indent=rng.choice([None, 2])).encode()


def _csv(rng: random.Random) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(rng.sample(WORDS, 5))
    writer.writerows([[rng.randrange(1000) for _ in range(5)] for _ in range(rng.randrange(3, 200))])
    return text.getvalue().encode()


def _html(rng: random.Random) -> bytes:
    body = "".join(f"<p class='{rng.choice(WORDS)}'>{_sentence(rng)}</p>\n" for _ in range(rng.randrange(2, 60)))
    return f"<!DOCTYPE html>\n<html><head><title>{_sentence(rng)}</title></head>\n<body>{body}</body></html>\n".encode()


def _image(rng: random.Random, kind: str) -> bytes:
    width, height = rng.randrange(16, 96), rng.randrange(16, 96)
    slope = np.add.outer(np.arange(height) * rng.random() * 4, np.arange(width) * rng.random() * 4)
    pixels = np.stack(
        [slope * rng.random() + np.random.default_rng(rng.randrange(9)).normal(0, 9, slope.shape)] * 3, -1
    )
    stream = io.BytesIO()
    Image.fromarray(np.uint8(np.abs(pixels) % 256)).save(stream, kind)
    return stream.getvalue()


def _archive(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(rng.randrange(1, 12)):
            entry = zipfile.ZipInfo(f"{rng.choice(WORDS)}/{index}.py")
            archive.writestr(entry, _python(rng), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _sound(rng: random.Random) -> bytes:
    stream, count = io.BytesIO(), rng.randrange(400, 6000)
    with wave.open(stream, "wb") as sound:
        sound.setparams((1, 2, 16000, count, "NONE", "not compressed"))
        sound.writeframes(np.int16(9000 * np.sin(np.arange(count) * rng.random())).tobytes())
    return stream.getvalue()


def _table(rng: random.Random) -> bytes:
    with sqlite3.connect(":memory:") as base:
        base.execute("create table items (id integer primary key, name text, score real)")
        rows = [(_sentence(rng), rng.random()) for _ in range(rng.randrange(1, 40))]
        base.executemany("insert into items (name, score) values (?, ?)", rows)
    return base.serialize()


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _python,
    lambda rng: _image(rng, "png"),
    _json,
    _archive,
    _markdown,
    lambda rng: _image(rng, "jpeg"),
    _c,
    lambda rng: gzip.compress(_json(rng), mtime=0),
    _csv,
    lambda rng: pickle.dumps(json.loads(_json(rng))),
    _html,
    _sound,
    lambda rng: base64.encodebytes(zlib.compress(_csv(rng))),
    _table,
    lambda rng: _image(rng, "gif"),
    lambda rng: rng.randbytes(rng.randrange(10, 4000)),
    lambda rng: _sentence(rng).encode(),
)
