"""The calibration inputs of a model: from the user, from the recipe, or the defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.config import CalibrationConfig
from edgekit.data.calibration.example_feeds import ExampleFeeds
from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.engine.bundle.manifest import Source
from edgekit.errors import CalibrationError, UsageError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import input_specs
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.original import OnnxOriginal
from edgekit.graph.stats import stats_from_graph
from edgekit.pipeline.calibrate import measured_ranges
from edgekit.pipeline.inputs import calibration_inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.progress import Silent
from edgekit.recipe.schema import Preprocess, Quantize, load_recipe
from edgekit.specs import TensorSpec


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def image_model(tmp_path: Path, write_classifier: Callable[..., Path]) -> LoadedModel:
    """A model from an ONNX file that takes images."""
    graph = graph_from_onnx(write_classifier(tmp_path / "classifier.onnx"))
    return LoadedModel(
        name="classifier",
        graph=graph,
        inputs=input_specs(graph),
        quantized=False,
        stats=stats_from_graph(graph),
        task="tensor",
        origin=Source(kind="onnx", name="classifier.onnx"),
        preprocess=Preprocess(),
        original=OnnxOriginal(tmp_path / "classifier.onnx"),
    )


def asked(**fields: object) -> CalibrationConfig:
    return CalibrationConfig(**fields)  # type: ignore[arg-type]


def test_the_shipped_images_are_the_default(image_model: LoadedModel) -> None:
    heard = Heard()
    assert calibration_inputs(image_model, asked(calib_images=3), heard).name == "sample"
    assert "shipped set 'sample' of 3 images" in heard.notes[0]


def test_random_numbers_are_the_default_for_models_that_take_no_images(image_model: LoadedModel) -> None:
    heard = Heard()
    found = calibration_inputs(replace(image_model, preprocess=None, num_values={"ids": 9}), asked(), heard)
    assert isinstance(found, RandomInputs)
    assert "the accuracy is not" in heard.notes[0]
    arrays = next(found.feeds([TensorSpec("ids", "int64", (1, 200))], None))[1]
    assert arrays["ids"].max() == 8


def test_a_recipe_names_a_data_set_and_its_labels_are_the_vocabulary(image_model: LoadedModel) -> None:
    recipe = load_recipe("transformer-tiny")
    model = replace(image_model, preprocess=None, labels=recipe.labels.names, policy=Quantize(calibration="spelling"))
    heard = Heard()
    found = calibration_inputs(model, asked(calib_images=4), heard)
    assert isinstance(found, ExampleFeeds) and len(found) == 4 and heard.notes == []
    specs = [TensorSpec(spec.name, spec.dtype, spec.shape) for spec in recipe.inputs]
    feeds = [arrays for _, arrays in found.feeds(specs, None)]
    assert [sorted(arrays) for arrays in feeds] == [["source", "target"]] * 4
    assert all(arrays["target"][0, 0] == 1 for arrays in feeds)  # <begin>


def test_the_users_set_replaces_that_of_the_recipe(image_model: LoadedModel) -> None:
    model = replace(image_model, policy=Quantize(calibration="spelling"))
    assert calibration_inputs(model, asked(calib="sample"), Silent()).name == "sample"


def test_folders_of_classes_calibrate_on_their_training_split(image_model: LoadedModel, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for i in range(2):
                shade = np.full((8, 8, 3), 40 * i + 100 * (split == "test"), np.uint8)
                Image.fromarray(shade).save(folder / f"{split}{i}.png")
    found = calibration_inputs(image_model, asked(calib=str(tmp_path / "pets")), Silent())
    arrays = list(found.feeds(image_model.inputs, image_model.preprocess))
    assert len(arrays) == 4
    assert all("train" in name for name, _ in arrays)


def test_error_on_an_unknown_set_names_what_is_near(image_model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="unknown calibration set 'spellng'") as caught:
        calibration_inputs(image_model, asked(calib="spellng"), Silent())
    assert caught.value.hint == "did you mean spelling?"


def test_error_on_an_empty_folder(image_model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="expected images"):
        calibration_inputs(image_model, asked(calib=str(tmp_path / "empty")), Silent())


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_dark_images_do_not_make_bright_ones_overflow(image_model: LoadedModel, tmp_path: Path, method: str) -> None:
    folder = tmp_path / "dark"
    folder.mkdir()
    dark = np.random.default_rng(0).integers(20, 60, (8, 40, 40, 3), dtype=np.uint8)
    for i, pixels in enumerate(dark):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    source = replace(image_model, preprocess=Preprocess(mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.25)))
    config = asked(calib=str(folder), calib_method=method)
    samples = calibration_inputs(source, config, Silent())
    table = measured_ranges(source, samples, (method,), cache=tmp_path / "cache", progress=Silent())[method]
    assert table.ranges[source.inputs[0].name] == pytest.approx((-1.2, 2.8))


def noted_for_arrays(model: LoadedModel, folder: Path, low: float, high: float) -> list[str]:
    """Notes of a calibration with an array of evenly spaced values."""
    (folder / "arrays").mkdir()
    spec = model.inputs[0]
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    values = np.linspace(low, high, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    np.savez(folder / "arrays" / "0.npz", **{spec.name: values})
    config, heard = asked(calib=str(folder / "arrays")), Heard()
    samples = calibration_inputs(model, config, Silent())
    measured_ranges(model, samples, ("minmax",), cache=folder / "cache", progress=heard)
    return heard.notes


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0)])
def test_arrays_unlike_the_preprocessing_are_noted(
    image_model: LoadedModel, tmp_path: Path, low: float, high: float
) -> None:
    (note,) = noted_for_arrays(image_model, tmp_path, low, high)
    assert f"values from {low:.3g} to {high:.3g}, but images become values from 0 to 1" in note


def test_arrays_within_the_preprocessing_are_not_noted(image_model: LoadedModel, tmp_path: Path) -> None:
    centred = replace(image_model, preprocess=Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    assert noted_for_arrays(centred, tmp_path, -1.01, 0.9) == []


def test_the_range_of_arrays_is_not_widened(image_model: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    spec = image_model.inputs[0]
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    np.savez(folder / "0.npz", **{spec.name: np.linspace(-3, 5, int(np.prod(shape)), dtype=np.float32).reshape(shape)})
    config = asked(calib=str(folder), calib_method="minmax")
    samples = calibration_inputs(image_model, config, Silent())
    table = measured_ranges(image_model, samples, ("minmax",), cache=tmp_path / "cache", progress=Silent())["minmax"]
    assert table.ranges[spec.name] == pytest.approx((-3, 5))


def test_the_graph_runs_once_for_all_methods(
    image_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    spec = image_model.inputs[0]
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    for index in range(2):
        noise = np.random.default_rng(index).normal(size=shape).astype(np.float32)
        np.savez(folder / f"{index}.npz", **{spec.name: noise})
    samples = calibration_inputs(image_model, asked(calib=str(folder)), Silent())
    runs = []
    run = Evaluator.run
    monkeypatch.setattr(Evaluator, "run", lambda self, feeds: runs.append(1) or run(self, feeds))
    methods = ("percentile", "mse")
    together = measured_ranges(image_model, samples, methods, cache=tmp_path / "cache", progress=Silent())
    assert len(runs) == 2
    for method in methods:
        alone = measured_ranges(image_model, samples, (method,), cache=tmp_path / method, progress=Silent())
        assert together[method] == alone[method]
    assert together["percentile"].ranges != together["mse"].ranges
