"""Preprocessing of images in device memory, with the same results as `reference.preprocess`; see ``preprocess.cu``."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeAlias

import numpy as np

from edgekit.device.cuda.resources import Context, Module, Stream
from edgekit.errors import UsageError
from edgekit.kernels import compiled
from edgekit.kernels.preprocess.geometry import antialiasing, placement
from edgekit.recipe.schema import Preprocess

__all__ = ["PARAMETERS", "DevicePreprocess", "Format", "Frame"]

Format: TypeAlias = Literal["rgb", "bgr", "gray", "nv12", "rgba", "bgra"]

# Constants of preprocess.cu.
_COLUMNS, _ROWS = 32, 8
_FORMATS: dict[str, int] = {"rgb": 0, "bgr": 1, "gray": 2, "nv12": 3, "rgba": 4, "bgra": 5}
_BYTES_PER_PIXEL = {"rgb": 3, "bgr": 3, "gray": 1, "nv12": 1, "rgba": 4, "bgra": 4}

# `struct Parameters` of preprocess.cu.
PARAMETERS = np.dtype(
    [
        *((name, np.uint64) for name in ("address", "chroma_address")),
        *((name, np.float64) for name in ("step_x", "step_y")),
        *((name, np.int32) for name in ("pitch_bytes", "chroma_pitch_bytes", "width", "height", "format")),
        *((name, np.int32) for name in ("left", "top", "inner_width", "inner_height", "skipped_x", "skipped_y")),
        *((name, np.int32) for name in ("part_left", "part_top", "part_right", "part_bottom", "factor_x", "factor_y")),
        *((name, np.float32) for name in ("box_left", "box_top", "box_right", "box_bottom")),
        ("vertical_first", np.int32),
        *((name, np.int32) for name in ("out_width", "out_height", "gray", "bgr", "nhwc", "half", "pad")),
        ("divisor", np.float32),
        ("mean", np.float32, (3,)),
        ("std", np.float32, (3,)),
    ],
    align=True,
)


@dataclass(frozen=True)
class Frame:
    """An 8-bit image in device memory.

    Attributes:
        address: device address of the upper left pixel.
        pitch_bytes: distance of two rows.
        width: in px.
        height: in px.
        format: order of the samples; the alpha of ``rgba`` and ``bgra`` is ignored. ``nv12`` is BT.601, limited range:
            a plane of luma, and a plane with U and V of each 2 x 2 px (rounded up if a side is odd).
        chroma_address: device address of the second plane of ``nv12``.
        chroma_pitch_bytes: distance of two rows of the second plane.
    """

    address: int
    pitch_bytes: int
    width: int
    height: int
    format: Format = "rgb"
    chroma_address: int = 0
    chroma_pitch_bytes: int = 0


class DevicePreprocess:
    """Resizes, pads and normalizes images on the GPU, in one launch per batch, without host synchronization.

    The results are those of `edgekit.data.images.preprocess`, bit for bit; float16 is rounded once from its float32.
    All that changes from frame to frame is in records in device memory, so a launch that was captured in a CUDA graph
    can be replayed for frames at other addresses and of other sizes. Not yet measured on a GPU.

    Args:
        context: the context of the images.
        how: resizing, channel order, layout, normalization.
        height: height of the input in px.
        width: width of the input in px.
        dtype: element type of the input, float32 or float16.
        images: maximum number of images of a batch.
        index: number of the GPU.

    Raises:
        BackendUnavailable: no compiled kernel fits the GPU and its driver.
        RunError: CUDA failed.
        UsageError: ``dtype`` is another type, or a number is out of range.
    """

    def __init__(
        self,
        context: Context,
        how: Preprocess,
        *,
        height: int,
        width: int,
        dtype: np.dtype,
        images: int,
        index: int = 0,
    ) -> None:
        for name, value in (("height", height), ("width", width), ("images", images)):
            if not 1 <= value <= 65535:  # the limit of CUDA for the number of images of a launch
                raise UsageError(f"{name}: expected 1 to 65535, got {value}")
        if dtype not in (np.float32, np.float16):
            raise UsageError(f"dtype: expected float32 or float16, got {dtype}")
        self.how = how
        self.size = (width, height)
        self.dtype = np.dtype(dtype)
        self.images = images
        antialiased = how.interpolation == "bilinear" and how.antialias
        self._kernel = f"preprocess_{'antialiased' if antialiased else how.interpolation}"
        binary = compiled.choose("preprocess", context.driver.properties(index))
        self._module = Module(context, compiled.image("preprocess", binary))

    def close(self) -> None:
        """Unloads the kernels; a second call does nothing."""
        self._module.close()

    def __enter__(self) -> DevicePreprocess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def record(self, frame: Frame) -> np.void:
        """Returns the record of a frame, of type `PARAMETERS`; `launch` reads it from device memory.

        Raises:
            RecipeError: ``how.resize_to`` is smaller than the input.
            UsageError: the frame's sizes do not fit each other or its format.
        """
        template = _template(self.how, self.size, self.dtype, frame.width, frame.height, frame.format)
        record: np.void = np.frombuffer(bytearray(template), PARAMETERS)[0]
        _check_pitches(frame)
        for name in ("address", "pitch_bytes", "chroma_address", "chroma_pitch_bytes"):
            record[name] = getattr(frame, name)
        return record

    def launch(self, stream: Stream, *, parameters: int, output: int, images: int) -> None:
        """Submits the preprocessing of a batch to a stream of the current context.

        Args:
            stream: the stream.
            parameters: device address of the records of the images, `PARAMETERS`, aligned to 8 bytes.
            output: device address of the input of the model, of shape ``(images, C, H, W)`` or ``(images, H, W, C)``.
            images: number of images.

        Raises:
            UsageError: there are more images than expected.
        """
        if not 1 <= images <= self.images:
            raise UsageError(f"images: expected 1 to {self.images}, got {images}")
        width, height = self.size
        self._module.launch(
            self._kernel,
            (-(-width // _COLUMNS), -(-height // _ROWS), images),
            (_COLUMNS, _ROWS, 1),
            [np.uint64(parameters), np.uint64(output)],
            stream,
        )


@functools.lru_cache(maxsize=64)  # a camera's frames have one size, and a record is made for each
def _template(
    how: Preprocess, size: tuple[int, int], dtype: np.dtype, width: int, height: int, format: Format
) -> bytes:
    """Returns a record without addresses and pitches."""
    if format not in _FORMATS:
        raise UsageError(f"frame.format: expected one of {', '.join(_FORMATS)}, got '{format}'")
    for name, side in (("width", width), ("height", height)):
        if not 1 <= side < 2**15:
            raise UsageError(f"frame.{name}: expected 1 to {2**15 - 1} px, got {side}")
    where = placement(how, (width, height), size)
    steps = antialiasing(where)
    fields: dict[tuple[str, ...], tuple[float, ...]] = {
        ("width", "height"): (width, height),
        ("out_width", "out_height"): size,
        ("left", "top"): where.corner,
        ("inner_width", "inner_height"): where.size,
        ("skipped_x", "skipped_y"): where.skipped,
        ("step_x", "step_y"): where.step,
        ("factor_x", "factor_y"): steps.factor,
        ("part_left", "part_top", "part_right", "part_bottom"): steps.part,
        ("box_left", "box_top", "box_right", "box_bottom"): steps.box,
        ("format", "vertical_first", "half"): (_FORMATS[format], steps.vertical_first, dtype == np.float16),
        ("gray", "bgr", "nhwc"): (how.color == "gray", how.color == "bgr", how.layout == "nhwc"),
        ("pad", "divisor"): (how.pad, how.divisor),
    }
    records = np.zeros(1, PARAMETERS)
    for names, values in fields.items():
        for name, value in zip(names, values, strict=True):
            records[name] = value
    records["mean"][:, : how.channels], records["std"][:, : how.channels] = how.mean, how.std
    return records.tobytes()


def _check_pitches(frame: Frame) -> None:
    pitches = {"pitch_bytes": (frame.pitch_bytes, frame.width * _BYTES_PER_PIXEL[frame.format])}
    if frame.format == "nv12":
        pitches["chroma_pitch_bytes"] = (frame.chroma_pitch_bytes, (frame.width + 1) // 2 * 2)
    for name, (pitch, least) in pitches.items():
        if not least <= pitch < 2**31:
            raise UsageError(
                f"frame.{name}: expected at least {least} bytes for {frame.width} px of {frame.format}, got {pitch}"
            )
    for name, address, is_read in (
        ("address", frame.address, True),
        ("chroma_address", frame.chroma_address, frame.format == "nv12"),
    ):
        if is_read and not address:
            raise UsageError(f"frame.{name}: expected the address of a plane of {frame.format}, got 0")
