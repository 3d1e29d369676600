from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from edgekit.arguments import on_command_line
from edgekit.engine.bundle.manifest import MANIFEST, read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import EngineMismatch, UsageError
from edgekit.serving.triton import export_triton
from edgekit.specs import ShapeRange, TensorSpec

google = pytest.importorskip("google.protobuf.text_format")

FILES = {"tensorrt": ["engine.plan"], "cpu": ["engine.onnx"], "openvino": ["engine.xml", "engine.bin"]}
IMAGES = TensorSpec("images", "float32", ("batch", 3, 64, 64))
CLASSES = TensorSpec("classes", "float32", ("batch", 2))
FROM_1_TO_16 = ShapeRange((1, 3, 64, 64), (4, 3, 64, 64), (16, 3, 64, 64))


@pytest.fixture(scope="session")
def model_config() -> ModuleType:
    """Triton's own definition, read from its file, because importing the package needs gRPC."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs the package tritonclient")
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Callable[..., Path]:
    """Makes a bundle for a target, with that target's files and the given manifest fields."""

    def make(target: str = "tensorrt", name: str = "engine", **changes: Any) -> Path:
        path = make_bundle(name, **{k: v for k, v in changes.items() if k in ("inputs", "outputs", "labels")})
        files = FILES.get(target, FILES["tensorrt"])
        (path / "engine.json").unlink()
        for file in files:
            (path / file).write_bytes(file.encode() * 100)
        own = {"backend": target, "engine": files[0], **changes}
        seal(path, msgspec.structs.replace(read_manifest(path), **own))
        return path

    return make


@pytest.fixture
def exported(bundle: Callable[..., Path], model_config: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """The configuration of an exported bundle, as Triton reads it."""

    def export(target: str = "tensorrt", **changes: Any) -> Any:
        model = export_triton(bundle(target, **changes), tmp_path / "models")
        text = (model.path / "config.pbtxt").read_text(encoding="utf-8")
        return google.Parse(text, model_config.ModelConfig())

    return export


@pytest.mark.parametrize(
    ("target", "platform", "backend", "files"),
    [
        ("tensorrt", "tensorrt_plan", "tensorrt", {"model.plan": "engine.plan"}),
        ("tensorrt-rtx", "tensorrt_plan", "tensorrt", {"model.plan": "engine.plan"}),
        ("cpu", "onnxruntime_onnx", "onnxruntime", {"model.onnx": "engine.onnx"}),
        ("openvino", "", "openvino", {"model.xml": "engine.xml", "model.bin": "engine.bin"}),
    ],
)
def test_each_target_has_its_platform_and_its_files(
    exported: Callable[..., Any], tmp_path: Path, target: str, platform: str, backend: str, files: dict[str, str]
) -> None:
    config = exported(target)
    assert (config.name, config.platform, config.backend) == ("engine", platform, backend)
    version = tmp_path / "models" / "engine" / "1"
    assert {file.name for file in version.iterdir()} == set(files)
    for name, source in files.items():
        assert (version / name).read_bytes() == source.encode() * 100


@pytest.mark.parametrize(("target", "kind"), [("tensorrt", "KIND_GPU"), ("cpu", "KIND_CPU"), ("openvino", "KIND_CPU")])
def test_instances_run_where_the_engine_does(
    exported: Callable[..., Any], model_config: ModuleType, target: str, kind: str
) -> None:
    (group,) = exported(target).instance_group
    assert (group.count, model_config.ModelInstanceGroup.Kind.Name(group.kind)) == (1, kind)


def test_a_fixed_batch_stays_in_the_shapes(exported: Callable[..., Any]) -> None:
    config = exported()
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    (image,) = config.input
    (head,) = config.output
    assert (image.name, list(image.dims)) == ("images", [1, 3, 64, 64])
    assert (head.name, list(head.dims)) == ("head", [1, 21, 2, 2])


def test_a_dynamic_batch_becomes_tritons_own(exported: Callable[..., Any]) -> None:
    config = exported(inputs=(IMAGES,), outputs=(CLASSES,), labels=("cat", "dog"), shapes={"images": FROM_1_TO_16})
    assert config.max_batch_size == 16
    assert config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[3, 64, 64], [2]]


def test_other_dynamic_dimensions_are_open(exported: Callable[..., Any]) -> None:
    ids = TensorSpec("ids", "int64", (1, "length"))
    config = exported(inputs=(ids,), outputs=(TensorSpec("y", "float16", (1, "length", 8)),))
    assert config.max_batch_size == 0
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[1, -1], [1, -1, 8]]


def test_an_output_without_a_batch_keeps_triton_from_batching(exported: Callable[..., Any]) -> None:
    total = TensorSpec("total", "float32", (5,))
    config = exported(inputs=(IMAGES,), outputs=(total,), shapes={"images": FROM_1_TO_16})
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 3, 64, 64]


def test_a_shape_is_never_empty(exported: Callable[..., Any]) -> None:
    config = exported(outputs=(TensorSpec("count", "int32", ()),))
    assert list(config.output[0].dims) == [1]
    assert config.output[0].HasField("reshape") and list(config.output[0].reshape.shape) == []


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("float32", "FP32"), ("float16", "FP16"), ("bfloat16", "BF16"), ("int8", "INT8"), ("uint8", "UINT8"),
     ("int64", "INT64"), ("bool", "BOOL"), ("float64", "FP64")],
)  # fmt: skip
def test_element_types_are_tritons(
    exported: Callable[..., Any], model_config: ModuleType, dtype: str, name: str
) -> None:
    config = exported(inputs=(TensorSpec("x", dtype, (2, 3)),))
    assert model_config.DataType.Name(config.input[0].data_type) == f"TYPE_{name}"


def test_every_element_type_is_one_of_tritons(model_config: ModuleType) -> None:
    from edgekit.serving.triton import DATA_TYPES

    assert set(DATA_TYPES.values()) <= set(model_config.DataType.keys())


def test_labels_belong_to_the_output_with_one_score_per_class(exported: Callable[..., Any], tmp_path: Path) -> None:
    config = exported(inputs=(IMAGES,), outputs=(CLASSES, TensorSpec("raw", "float32", ("batch", 7))),
                      labels=("cat", "dog"), shapes={"images": FROM_1_TO_16})  # fmt: skip
    assert [output.label_filename for output in config.output] == ["labels.txt", ""]
    assert (tmp_path / "models/engine/labels.txt").read_text() == "cat\ndog\n"


def test_a_detectors_labels_are_a_file_of_the_model(exported: Callable[..., Any], tmp_path: Path) -> None:
    assert exported().output[0].label_filename == ""
    assert (tmp_path / "models/engine/labels.txt").read_text() == "cat\ndog\n"


def test_a_name_of_any_characters_is_quoted(exported: Callable[..., Any]) -> None:
    name = 'a "quoted" \\ back\nslash é'
    config = exported(inputs=(TensorSpec(name, "float32", (1, 2)),))
    assert config.input[0].name == name


def test_an_unchanged_export_is_replaced(bundle: Callable[..., Path], tmp_path: Path) -> None:
    first = export_triton(bundle("openvino", "one"), tmp_path / "models", name="m")
    second = export_triton(bundle("tensorrt", "two"), tmp_path / "models", name="m")
    assert first.path == second.path
    assert {file.name for file in (second.path / "1").iterdir()} == {"model.plan"}


@pytest.mark.parametrize("stranger", ["1/other.plan", "2/model.plan", "README"])
def test_other_files_are_not_changed(bundle: Callable[..., Path], tmp_path: Path, stranger: str) -> None:
    engine = bundle()
    model = export_triton(engine, tmp_path / "models")
    file = model.path / stranger
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UsageError, match="EdgeKit did not write"):
        export_triton(engine, tmp_path / "models")
    assert file.read_text() == "mine"


def test_an_edited_configuration_is_not_changed(bundle: Callable[..., Path], tmp_path: Path) -> None:
    engine = bundle()
    config = export_triton(engine, tmp_path / "models").path / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 4"))
    with pytest.raises(UsageError, match="was edited after EdgeKit wrote it"):
        export_triton(engine, tmp_path / "models")
    assert "count: 4" in config.read_text()


def test_error_on_a_file_in_the_models_place(bundle: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/engine").write_text("")
    with pytest.raises(UsageError, match="it is a file"):
        export_triton(bundle(), tmp_path / "models")


def test_error_on_a_target_that_triton_cannot_serve(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got one for 'null'"):
        export_triton(make_bundle(), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_error_on_a_bundle_without_an_engine_names_the_command(bundle: Callable[..., Path], tmp_path: Path) -> None:
    engine = bundle(engine="")
    with pytest.raises(EngineMismatch, match="no engine yet") as caught:
        export_triton(engine, tmp_path / "models")
    assert caught.value.hint == f"edgekit.compile('{engine}', target='tensorrt')"
    with on_command_line(), pytest.raises(EngineMismatch) as caught:
        export_triton(engine, tmp_path / "models")
    assert caught.value.hint == f"edgekit compile {engine} --target tensorrt"


def test_error_on_a_plan_that_was_changed(bundle: Callable[..., Path], tmp_path: Path) -> None:
    engine = bundle()
    (engine / "engine.plan").write_bytes(b"x" * (engine / "engine.plan").stat().st_size)
    with pytest.raises(EngineMismatch, match="'engine.plan' was changed"):
        export_triton(engine, tmp_path / "models")
    assert not (tmp_path / "models" / "engine").exists()


def test_error_on_a_plan_without_weights(bundle: Callable[..., Path], tmp_path: Path) -> None:
    engine = bundle(engine_options={"strip_weights": True})
    with pytest.raises(UsageError, match="the plan has no weights"):
        export_triton(engine, tmp_path / "models")


def test_error_on_an_output_of_unknown_rank(bundle: Callable[..., Path], tmp_path: Path) -> None:
    engine = bundle(outputs=(TensorSpec("y", "float32", ("?",)),))
    with pytest.raises(UsageError, match="needs the rank"):
        export_triton(engine, tmp_path / "models")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_error_on_a_name_that_is_no_folder_of_the_repository(
    bundle: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="name: expected"):
        export_triton(bundle(), tmp_path / "models", name=name)


def test_what_triton_cannot_be_configured_for_is_a_note(bundle: Callable[..., Path], tmp_path: Path) -> None:
    rtx = export_triton(bundle("tensorrt-rtx", "rtx"), tmp_path / "models")
    assert any("TensorRT-RTX" in note and "target='tensorrt'" in note for note in rtx.notes)
    least = ShapeRange((2, 3, 64, 64), (4, 3, 64, 64), (8, 3, 64, 64))
    batched = bundle("tensorrt", "b", inputs=(IMAGES,), outputs=(CLASSES,), labels=(), shapes={"images": least})
    assert any("min batch is 2" in note for note in export_triton(batched, tmp_path / "models").notes)
    assert export_triton(bundle("cpu", "cpu"), tmp_path / "models").notes == ()


def test_export_reads_only_the_manifest_and_the_engine(bundle: Callable[..., Path], tmp_path: Path) -> None:
    engine = bundle()
    manifest = json.loads((engine / MANIFEST).read_bytes())
    manifest["machine"]["arch"] = "another"
    (engine / MANIFEST).write_text(json.dumps(manifest))
    assert (export_triton(engine, tmp_path / "models").path / "1/model.plan").is_file()


@pytest.mark.parametrize("label", ["two\nlines", "return\r", "separator\u2028", "\n"])
def test_error_on_a_label_of_several_lines(label: str, bundle: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected labels of one line, which labels.txt needs, got"):
        export_triton(bundle(labels=("cat", label)), tmp_path / "models")
    assert not (tmp_path / "models").exists()
