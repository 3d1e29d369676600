from __future__ import annotations

import msgspec
import pytest

import edgekit
from edgekit.measure.boards import boards, peaks_from_board
from edgekit.measure.fused_layers import fused_layers
from edgekit.measure.published import MODELS_FILE, Published, layers_from_published, published
from edgekit.measure.roofline import roofline_from_layers


def name_of(pair: Published) -> str:
    return f"{pair.model}-{pair.batch}-{pair.board}-{pair.precision}"


@pytest.mark.parametrize("pair", published(), ids=name_of)
def test_no_published_latency_is_below_its_lower_bound(pair: Published) -> None:
    layers = layers_from_published(pair.model, pair.precision, pair.batch)
    bound = roofline_from_layers(layers, peaks_from_board(boards().boards[pair.board]))
    assert 0 < bound.bound_ms < pair.latency_ms


def test_every_latency_has_a_source_a_board_and_a_model() -> None:
    models = msgspec.json.decode(MODELS_FILE.read_bytes())
    assert {pair.board for pair in published()} <= set(boards().boards)
    assert {pair.model for pair in published()} == set(models)
    assert all(pair.source.title and pair.source.url.startswith("https://") for pair in published())


def test_no_latency_is_listed_twice() -> None:
    keys = [(pair.model, pair.batch, pair.board, pair.precision, pair.source.url) for pair in published()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("model", "gmacs"),
    # Half of the operations that the authors publish: Ultralytics' model tables (FLOPs of YOLO11 and YOLOv8 at 640 px),
    # Darknet's list for YOLOv3 (BFLOPS 65.86 at 416, 140.69 at 608), torchvision's for the classifiers.
    [
        ("yolo11n", 6.5 / 2), ("yolo11s", 21.5 / 2), ("yolo11m", 68.0 / 2), ("yolo11l", 86.9 / 2),
        ("yolo11x", 194.9 / 2), ("yolov8n", 8.7 / 2), ("yolov8s", 28.6 / 2), ("yolov8m", 78.9 / 2),
        ("yolov3-416", 65.86 / 2), ("yolov3-608", 140.69 / 2), ("resnet18", 1.814), ("resnet50", 4.089),
        ("mobilenet-v2", 0.301), ("alexnet", 0.714), ("vgg16", 15.47),
    ],
)  # fmt: skip
def test_models_have_the_arithmetic_that_their_authors_publish(model: str, gmacs: float) -> None:
    assert sum(layer.macs for layer in layers_from_published(model, "int8")) / 1e9 == pytest.approx(gmacs, rel=0.012)


@pytest.mark.slow
def test_a_recipe_counted_now_is_what_was_stored() -> None:
    counted = fused_layers(edgekit.inspect("resnet18", precision="fp16"))
    stored = layers_from_published("resnet18", "float16")
    for now, then in zip(counted, stored, strict=True):
        assert (now.macs, now.weight_bytes // 2 * 2, now.activation_bytes) == (
            then.macs, then.weight_bytes, then.activation_bytes,
        )  # fmt: skip


def test_a_batch_multiplies_arithmetic_and_activations_but_not_weights() -> None:
    one, eight = (layers_from_published("resnet18", "float32", batch) for batch in (1, 8))
    for a, b in zip(one, eight, strict=True):
        assert (b.macs, b.activation_bytes, b.weight_bytes) == (8 * a.macs, 8 * a.activation_bytes, a.weight_bytes)


def test_a_precision_changes_the_bytes_and_not_the_arithmetic() -> None:
    full, integers = (layers_from_published("resnet18", precision) for precision in ("float32", "int8"))
    assert [4 * layer.bytes for layer in integers] == [layer.bytes for layer in full]
    assert [layer.macs for layer in integers] == [layer.macs for layer in full]
