from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edgekit
from edgekit.data.images import preprocess
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import ModelError
from edgekit.graph.export.check import compare_with_module
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.models.classifier_blocks import ConvSame
from edgekit.models.factory import module_from_factory, module_from_recipe
from edgekit.models.weights.read import load_weights
from edgekit.models.weights.state_dict import Renaming
from edgekit.recipe.schema import load_recipe
from edgekit.specs import TensorSpec
from tests.decibels import signal_to_noise_db
from tools.published_names import (
    FOLDER,
    TORCHVISION,
    classifier_of_timm,
    classifier_of_torchvision,
    table,
    torchvision_models,
)

State = dict[str, torch.Tensor]

LITE = "efficientnet-lite0"
NAMES = [*TORCHVISION, LITE]
SMALL = [name for name in NAMES if not name.startswith(("alexnet", "vgg"))]

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)
needs_timm = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision")), reason="timm is not installed"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def without_data(name: str) -> nn.Module:
    with torch.device("meta"):
        return module_from_recipe(load_recipe(name))


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    lines = [line.split() for line in (FOLDER / f"{name}.txt").read_text().splitlines()]
    return {tensor: tuple(int(size) for size in shape.split("x") if size != "-") for tensor, shape in lines}


def published_state(name: str, seed: int = 0) -> State:
    """Random weights and statistics under the published names, with bounded activations."""
    random = torch.Generator().manual_seed(seed)
    state: State = {}
    for tensor, shape in published_shapes(name).items():
        if tensor.endswith("num_batches_tracked"):
            state[tensor] = torch.tensor(3)
        elif len(shape) > 1:
            state[tensor] = torch.randn(shape, generator=random) * math.sqrt(2 / math.prod(shape[1:]))
        elif tensor.endswith(("running_var", "weight")):
            state[tensor] = 0.5 + torch.rand(shape, generator=random)
        else:
            state[tensor] = 0.1 * torch.randn(shape, generator=random)
    return state


def renamed(module: nn.Module, state: State) -> State:
    if not isinstance(module, Renaming):
        return state
    known = module.state_dict()
    own = {name if name in known else module.own_name(name): value for name, value in state.items()}
    return {name: value for name, value in own.items() if name is not None}


def relative_difference(ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...]) -> float:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got, expected = ours(images), theirs(images)
    assert got.shape == expected.shape
    if len(images) > 1:  # an output that does not depend on the image would prove nothing
        assert (expected[0] - expected[1]).abs().max() > 0.01 * expected.abs().max()
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    module = without_data(name)
    published = {tensor: torch.empty(shape, device="meta") for tensor, shape in published_shapes(name).items()}
    assert {tensor: value.shape for tensor, value in renamed(module, published).items()} == {
        tensor: value.shape for tensor, value in module.state_dict().items()
    }


@needs_torchvision
@pytest.mark.parametrize("name", TORCHVISION)
def test_tables_match_torchvision(name: str) -> None:
    assert table(classifier_of_torchvision(name).state_dict()) == (FOLDER / f"{name}.txt").read_text()


@needs_timm
def test_the_table_of_lite0_matches_timm() -> None:
    assert table(classifier_of_timm(LITE).state_dict()) == (FOLDER / f"{LITE}.txt").read_text()


@needs_torchvision
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "vgg1" in name else []) for name in TORCHVISION]
)
def test_outputs_are_those_of_torchvision(name: str) -> None:
    ours, theirs = without_data(name), classifier_of_torchvision(name)
    state = published_state(name)
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(renamed(ours, state), assign=True)
    for shape in ((1, 3, 224, 224), (2, 3, 97, 130), (1, 3, 64, 65)):
        assert relative_difference(ours, theirs, shape) <= 1e-5


@needs_timm
def test_outputs_of_lite0_are_those_of_timm() -> None:
    ours, theirs = without_data(LITE), classifier_of_timm(LITE)
    state = published_state(LITE)
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(renamed(ours, state), assign=True)
    for shape in ((1, 3, 224, 224), (2, 3, 97, 130), (1, 3, 64, 65)):
        assert relative_difference(ours, theirs, shape) <= 1e-5


@needs_torchvision
@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_macs_and_weights_match_torchvision(name: str) -> None:
    recipe = load_recipe(name)
    sets = torchvision_models().get_model_weights(TORCHVISION[name])
    for key, weights in recipe.weights.items():
        published = {"imagenet": "IMAGENET1K_V1", "imagenet-v2": "IMAGENET1K_V2"}[key]
        theirs = sets[published]
        assert weights.url == theirs.url
        assert weights.sha256[:8] == theirs.url.rpartition("-")[2].removesuffix(".pth")
        assert recipe.model.parameters == theirs.meta["num_params"]
        assert recipe.macs / 1e9 == pytest.approx(theirs.meta["_ops"], abs=0.0006)
        assert list(recipe.labels.names) == theirs.meta["categories"]
        assert f"{theirs.meta['_metrics']['ImageNet-1K']['acc@1']:.3f} % top-1" in weights.source
    assert "imagenet" in recipe.weights


@needs_torchvision
@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_preprocessing_matches_torchvision(name: str) -> None:
    rows, columns = np.mgrid[:300, :420]
    waves = [np.sin(rows / 17 + c) + np.cos(columns / (11 + c)) for c in range(3)]
    picture = Image.fromarray(np.uint8(np.stack(waves, axis=-1) * 60 + 127))
    published = torchvision_models().get_model_weights(TORCHVISION[name]).IMAGENET1K_V1
    expected = published.transforms()(picture).unsqueeze(0)
    if name == "googlenet":  # the pretrained one uses transform_input=True
        module = classifier_of_torchvision(name)
        module.transform_input = True
        expected = module._transform_input(expected)
    recipe = load_recipe(name)
    assert recipe.preprocess is not None
    got, _ = preprocess(picture, recipe.preprocess, recipe.inputs[0].shape)
    assert got.shape == tuple(expected.shape)
    step = 1 / 255 / min(recipe.preprocess.std)
    assert np.abs(got - expected.numpy()).max() <= 1.01 * step


@pytest.mark.parametrize("name", NAMES)
def test_macs_of_the_recipe_are_those_of_the_modules(name: str) -> None:
    recipe = load_recipe(name)
    module = without_data(name)
    macs = 0

    def count(layer: nn.Conv2d | nn.Linear, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.register_forward_hook(count)
    logits = module(torch.empty(recipe.inputs[0].shape, device="meta"))
    assert macs == recipe.macs
    assert tuple(logits.shape) == (1, len(recipe.labels.names))


@pytest.mark.parametrize("name", SMALL)
def test_untrained_activations_neither_vanish_nor_explode(name: str) -> None:
    module = module_from_recipe(load_recipe(name))
    spreads = {}

    def keep(part: nn.Module, inputs: object, output: torch.Tensor, name: str) -> None:
        spreads[name] = output.std().item()

    for part_name, part in module.named_modules():
        if isinstance(part, (nn.ReLU, nn.ReLU6, nn.Linear)):
            part.register_forward_hook(lambda p, i, o, n=part_name: keep(p, i, o, n))
    with torch.inference_mode():
        module(torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert all(0.2 < spread < 10 for spread in spreads.values()), spreads


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet-v2", LITE])
def test_the_number_of_classes_only_changes_the_last_layer(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        few = module_from_factory(recipe.model.factory, {"classes": 7}).state_dict()
    many = without_data(name).state_dict()
    differing = [tensor for tensor, value in few.items() if value.shape != many[tensor].shape]
    assert [tensor.rpartition(".")[2] for tensor in differing] == ["weight", "bias"]
    assert all(few[tensor].shape[0] == 7 for tensor in differing)


@pytest.mark.parametrize("name", ["googlenet", "densenet121", LITE])
def test_files_with_published_names_are_loaded(name: str, tmp_path: Path) -> None:
    state = published_state(name)
    if name == "densenet121":  # torchvision's file is from before names could not have dots
        state = {
            tensor.replace("norm1.", "norm.1.")
            .replace("norm2.", "norm.2.")
            .replace("conv1.", "conv.1.")
            .replace("conv2.", "conv.2."): value
            for tensor, value in state.items()
            if not tensor.endswith("num_batches_tracked")
        }
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "published.pth")
    module = module_from_recipe(load_recipe(name), seed=1)
    load_weights(module, tmp_path / "published.pth")
    expected = renamed(module, state)
    for tensor, value in module.state_dict().items():
        assert tensor.endswith("num_batches_tracked") or torch.equal(value, expected[tensor])
    torch.save(module.state_dict(), tmp_path / "own.pth")
    again = module_from_recipe(load_recipe(name), seed=2)
    load_weights(again, tmp_path / "own.pth")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("saved", "wanted", "expected"),
    [
        ("resnet18", "resnet34", "expected a tensor 'layer1.2.conv1.weight'"),
        ("resnet34", "resnet18", "got 96 extra, the first 'layer1.2.conv1.weight'"),
        ("mobilenet-v2", "efficientnet-lite0", "'features.4.conv.1.0.weight': expected (144, 1, 5, 5), got"),
        ("googlenet", "resnet18", "expected a tensor 'conv1.weight'"),
    ],
)
def test_error_on_weights_of_another_model(saved: str, wanted: str, expected: str, tmp_path: Path) -> None:
    torch.save(published_state(saved), tmp_path / "weights.pth")
    with pytest.raises(ModelError) as caught:
        load_weights(module_from_recipe(load_recipe(wanted)), tmp_path / "weights.pth")
    assert expected in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet-v2", LITE])
def test_int8_engine_agrees_with_the_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    bundle = edgekit.build(name, precision="int8", target="cpu", profile=False, output=tmp_path / "engine")
    manifest = read_manifest(bundle)
    assert (manifest.task, manifest.labels) == ("classify", load_recipe(name).labels.names)
    recipe = load_recipe(name)
    module = module_from_recipe(recipe)
    # Depthwise convolutions of 5 x 5 are slower on integers.
    wide = sum(isinstance(m, nn.Conv2d) and m.groups > 1 and m.kernel_size[0] >= 5 for m in module.modules())
    assert manifest.layers.get("float32", 0) <= wide
    random = torch.Generator().manual_seed(7)
    # Smooth images between black and white, since the calibration has seen neither pixel noise nor brighter values.
    assert recipe.preprocess is not None
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (recipe.preprocess.mean, recipe.preprocess.std))
    coarse = [torch.rand(1, 3, 8, 8, generator=random) for _ in range(4)]
    inputs = [(nn.functional.interpolate(picture, (224, 224), mode="bilinear") - mean) / std for picture in coarse]
    with edgekit.load(bundle) as session, torch.inference_mode():
        got = [session.run({"images": picture.numpy()})["logits"] for picture in inputs]
        expected = [module(picture).numpy() for picture in inputs]
    ratio = signal_to_noise_db(expected, got)
    assert ratio is not None and ratio > 25


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in (LITE, "googlenet")])
def test_any_batch_is_exported(name: str) -> None:
    module = module_from_recipe(load_recipe(name))
    spec = TensorSpec("images", "float32", ("batch", 3, 64, 66))
    graph = optimize(graph_from_module(module, [spec], ["logits"]))
    assert "Pad" not in {node.op_type for node in graph.graph}
    compare_with_module(graph, module, [TensorSpec("images", "float32", (3, 3, 64, 66))], 1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", range(5, 12))
def test_same_padding_is_that_of_tensorflow(kernel: int, size: int) -> None:
    conv = ConvSame(1, 1, kernel, stride=2, bias=False)
    image = torch.randn(1, 1, size, size + 1, generator=torch.Generator().manual_seed(size))
    with torch.inference_mode():
        got = conv(image)[0, 0]
    # out[i] starts at i * stride - padding // 2, and the padding completes the last window
    height, width = math.ceil(size / 2), math.ceil((size + 1) / 2)
    above = max((height - 1) * 2 + kernel - size, 0) // 2
    left = max((width - 1) * 2 + kernel - size - 1, 0) // 2
    weight = conv.weight.detach()[0, 0]
    expected = torch.zeros(height, width)
    for i in range(height):
        for j in range(width):
            for di in range(kernel):
                for dj in range(kernel):
                    row, column = 2 * i - above + di, 2 * j - left + dj
                    if 0 <= row < size and 0 <= column < size + 1:
                        expected[i, j] += weight[di, dj] * image[0, 0, row, column]
    torch.testing.assert_close(got, expected)
