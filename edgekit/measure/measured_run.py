"""The run that is measured: its stages, and the image or the arrays that it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from edgekit.arguments import argument
from edgekit.data.images import ImageSource, read_image
from edgekit.errors import UsageError, nearest
from edgekit.specs import ShapeRange, TensorSpec, sizes_of, sizes_take, specs_at, specs_text

if TYPE_CHECKING:
    from edgekit.runtime.session import Session

__all__ = ["MeasuredRun", "Run", "generated_image", "random_feeds", "run_of_session", "sized_inputs"]

IMAGE_SIZE_PX = (768, 576)
"""Width and height of the generated image; Darknet's ``dog.jpg`` has this size."""

Run = Callable[[], tuple[float, ...]]


class MeasuredRun(NamedTuple):
    """A run of an engine that is repeated.

    Attributes:
        stages: names of its stages; one is ``inference``.
        once: runs it once, and returns the duration of each stage in ms.
        source: what it is given, in words.
        inputs: the engine's inputs, in the shapes that it is given.
    """

    stages: tuple[str, ...]
    once: Run
    source: str
    inputs: tuple[TensorSpec, ...]


def run_of_session(
    session: Session, image: ImageSource | None, seed: int, sizes: Mapping[str, Sequence[int]]
) -> MeasuredRun:
    """Returns the run of a detector from pixels to detections, or that of another engine from arrays to arrays.

    Args:
        session: the loaded engine.
        image: what a detector is given; None generates one.
        seed: seed of the generated image, or of random arrays.
        sizes: shapes of inputs by name; a detector is then given random arrays too.

    Raises:
        DataError: the image cannot be read.
        UsageError: there are both an image and sizes, the engine takes no image, or it does not accept the sizes.
    """
    shapes = session.manifest.shapes
    if image is not None and sizes:
        raise UsageError(
            f"{argument('image')} and {argument('sizes', flag='--input')}: expected one of them, as images are "
            "resized to the input, got both"
        )
    if session.manifest.postprocess is not None and _takes_one(session) and not sizes:
        pixels, source = _pixels(image, seed)
        one = specs_at(session.inputs, shapes)[0]
        fed = msgspec.structs.replace(one, shape=(1, *one.shape[1:]))
        return MeasuredRun(("preprocess", "inference", "postprocess"), _detector(session, pixels), source, (fed,))
    if image is not None:
        raise UsageError(
            f"{argument('image')}: {session.manifest.name} expects arrays and has no preprocessing, got an image",
            hint=f"leave {argument('image')} out: random numbers are used",
        )
    inputs = sized_inputs(session.inputs, shapes, sizes)
    return MeasuredRun(("inference",), _plain(session, random_feeds(inputs, seed)), "random numbers", inputs)


def random_feeds(inputs: Sequence[TensorSpec], seed: int) -> dict[str, np.ndarray]:
    """Returns random arrays for the inputs: normally distributed floats, and integers that are 0 or 1."""
    return {spec.name: _random_array(spec, np.random.default_rng(seed)) for spec in inputs}


def _takes_one(session: Session) -> bool:
    first = session.inputs[0]
    return sizes_take(sizes_of(first, session.manifest.shapes)[:1], [1])


def sized_inputs(
    found: Sequence[TensorSpec], shapes: Mapping[str, ShapeRange], wanted: Mapping[str, Sequence[int]]
) -> tuple[TensorSpec, ...]:
    """Returns the inputs of an engine in the requested shapes, or else in the opt shapes of their ranges.

    Args:
        found: the inputs.
        shapes: their ranges of shapes.
        wanted: shapes by name; the name ``""`` is the first input.

    Raises:
        UsageError: there is no such input, or it does not accept the shape.
    """
    names = [spec.name for spec in found]
    chosen = {name or names[0]: tuple(shape) for name, shape in wanted.items()}
    for name in chosen:
        if name not in names:
            raise UsageError(
                f"{argument('sizes', flag='--input')}: the engine has no input '{name}'", hint=nearest(name, names)
            )
    specs = specs_at(found, shapes)
    for spec in found:
        if spec.name in chosen and not sizes_take(sizes_of(spec, shapes), chosen[spec.name]):
            raise UsageError(
                f"{argument('sizes', flag='--input')}: expected a shape that fits {specs_text([spec], shapes)}, got "
                f"{'x'.join(map(str, chosen[spec.name]))}",
                hint="build the engine for that size, or for a range that includes it",
            )
    return tuple(msgspec.structs.replace(spec, shape=chosen.get(spec.name, spec.shape)) for spec in specs)


def _detector(session: Session, pixels: np.ndarray) -> Run:
    def once() -> tuple[float, ...]:
        start = time.perf_counter_ns()
        feeds, placement = session.preprocess(pixels)
        ready = time.perf_counter_ns()
        outputs = session.run(feeds)
        done = time.perf_counter_ns()
        session.postprocess(outputs, placement)
        end = time.perf_counter_ns()
        return (ready - start) / 1e6, (done - ready) / 1e6, (end - done) / 1e6

    return once


def _plain(session: Session, feeds: dict[str, np.ndarray]) -> Run:
    def once() -> tuple[float, ...]:
        start = time.perf_counter_ns()
        session.run(feeds)
        return ((time.perf_counter_ns() - start) / 1e6,)

    return once


def _pixels(image: ImageSource | None, seed: int) -> tuple[np.ndarray, str]:
    if image is None:
        width, height = IMAGE_SIZE_PX
        return generated_image(width, height, seed), f"a generated image, {width} x {height} px"
    pixels = read_image(image)
    height, width = pixels.shape[:2]
    name = Path(image).name if isinstance(image, (str, Path)) else "an image"
    return pixels, f"{name}, {width} x {height} px"


def generated_image(width: int, height: int, seed: int) -> np.ndarray:
    """Generates an image of blobs with noise, which no stage handles as empty; uint8, ``(height, width, 3)``."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3))
    blobs = coarse.repeat(64, axis=0).repeat(64, axis=1)[:height, :width]
    return np.clip(blobs + random.normal(0, 16, (height, width, 3)), 0, 255).astype(np.uint8)


def _random_array(spec: TensorSpec, random: np.random.Generator) -> np.ndarray:
    shape = tuple(int(size) for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    # 0 and 1 are valid as indices of any vocabulary, as masks and as flags.
    return random.integers(0, 2, shape).astype(dtype)
