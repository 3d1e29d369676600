"""Arguments of a wrong type raise an EdgeKitError that says what is expected, never an error from inside."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import edgekit
from edgekit.errors import DataError, EdgeKitError, RunError, UsageError
from edgekit.runtime.session import Session

IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (None, ""),
        (3, ""),
        ({"image": IMAGE}, ""),
        (torch.zeros(3, 32, 32), "permute(1, 2, 0)"),
        (b"\x89PNG", "io.BytesIO"),
        (io.BytesIO(), "PIL.Image.open"),
        ((image for image in [IMAGE]), "stream()"),
    ],
)
def test_an_image_of_another_type_is_named_with_the_way_to_convert_it(session: Session, image: Any, hint: str) -> None:
    with pytest.raises(
        DataError, match=f"expected a path, a Pillow image or a uint8 .*got {type(image).__name__}"
    ) as e:
        session.detect(image)
    assert hint in e.value.hint


@pytest.mark.parametrize("value", ["high", [0.5, 0.5], float("nan"), 2])
def test_a_threshold_that_is_no_fraction_is_an_error(session: Session, value: Any) -> None:
    for name in ("score_threshold", "iou_threshold"):
        with pytest.raises(UsageError, match=f"{name}: expected 0 to 1, got"):
            session.detect(IMAGE, **{name: value})


@pytest.mark.parametrize("frames", [None, 0, Image.new("RGB", (8, 8))])
def test_a_stream_of_what_is_no_frames_is_an_error(session: Session, frames: Any) -> None:
    with pytest.raises(UsageError, match=r"expected a source or an iterable of frames, got .*\ndetect\(\) takes one"):
        session.stream(frames)


@pytest.mark.parametrize(
    "call",
    [
        lambda path: edgekit.evaluate(path, data=path),
        lambda path: edgekit.evaluate(path, data="digits", labels=5),  # type: ignore[arg-type]
        lambda path: edgekit.load(path, labels="cat"),
        lambda path: edgekit.profile(path, runs=1, streams="two"),  # type: ignore[arg-type]
        lambda path: edgekit.debug(path, against=5),  # type: ignore[arg-type]
        lambda path: edgekit.debug(path, save=5),  # type: ignore[arg-type]
        lambda path: edgekit.compile(path, target=5),  # type: ignore[arg-type]
    ],
)
def test_an_argument_of_another_type_is_an_error_in_every_function(
    arrays_engine: Path, call: Callable[[str], Any]
) -> None:
    with pytest.raises(EdgeKitError):
        call(str(arrays_engine))


@pytest.mark.parametrize("call", [edgekit.load, edgekit.profile, edgekit.inspect])
@pytest.mark.parametrize("path", ["a\0b", None, 5, "none", b"none"])
def test_a_path_that_is_none_is_an_error(call: Callable[[Any], object], path: Any) -> None:
    with pytest.raises(EdgeKitError):
        call(path)


@pytest.mark.parametrize("value", ["yes", 1, 0.0, [True], np.True_])
def test_a_flag_that_is_neither_true_nor_false_is_an_error(session: Session, arrays_engine: Path, value: Any) -> None:
    with pytest.raises(UsageError, match="multi_label: expected True or False, got"):
        session.detect(IMAGE, multi_label=value)
    with pytest.raises(UsageError, match="track: expected True or False, got"):
        session.stream("photo.jpg", track=value)
    with pytest.raises(UsageError, match="track expects a source"):
        session.stream([IMAGE], track=value)
    with pytest.raises(DataError, match="format: expected one of rgb"):
        session.detect(IMAGE, format=value)
    with pytest.raises(UsageError, match="layers: expected True or False, got"):
        edgekit.profile(arrays_engine, runs=1, layers=value)


def test_the_flags_may_be_true_and_false(session: Session, arrays_engine: Path) -> None:
    assert len(session.detect(IMAGE, multi_label=False)) <= len(session.detect(IMAGE, multi_label=True))
    assert edgekit.profile(arrays_engine, runs=1, layers=False).layer_times is None


def test_a_tensor_without_memory_is_refused_as_an_image_and_as_an_input(session: Session) -> None:
    with pytest.raises(DataError, match="got Tensor"):
        session.detect(torch.zeros(3, 32, 32, device="meta"))
    with pytest.raises(RunError, match="got Tensor"):
        session.run({session.inputs[0].name: torch.zeros(1, 3, 32, 32, device="meta")})  # type: ignore[dict-item]


def test_the_command_in_a_hint_is_one_of_a_shell(session: Session) -> None:
    spec = session.inputs[0]
    with pytest.raises(RunError) as e:
        session.run({spec.name: np.zeros((3, *map(int, spec.shape[1:])), np.float32)})
    assert "in a shell, was edgekit build" in e.value.hint


@pytest.mark.parametrize("frames", [[IMAGE], "photo.jpg"])
def test_an_option_that_the_task_does_not_have_is_named_before_the_first_frame(session: Session, frames: Any) -> None:
    with pytest.raises(UsageError, match=r"stream: expected options of task 'detect', got score=") as e:
        session.stream(frames, score=0.5)
    assert "did you mean score_threshold" in e.value.hint


def test_a_stream_of_arrays_has_no_options(arrays_engine: Path) -> None:
    with edgekit.load(arrays_engine) as session, pytest.raises(UsageError, match="got top=\nleave it out"):
        session.stream([{"x": np.zeros((2, 8), np.float32)}], top=3)
