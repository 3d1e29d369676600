"""Exports an engine for DeepStream: the configuration of its plugin Gst-nvinfer, the plan and the labels.

The properties are those of gstnvinfer_property_parser.cpp; enumerations have the numbers of nvdsinfer_context.h.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgekit.arguments import argument, either
from edgekit.engine.bundle.checks import check_files
from edgekit.engine.bundle.manifest import GRAPH, Manifest, compile_hint, manifest_in, read_engine
from edgekit.engine.bundle.staging import staged_folder
from edgekit.errors import BuildError, EngineMismatch, UsageError
from edgekit.kernels.decode.layout import layout
from edgekit.recipe.schema import Preprocess
from edgekit.serving.deepstream_parsers import CLASSIFIER, Parser, parser_of
from edgekit.serving.exported_folder import labels_text, require_one_line_labels, require_own_folder, sealed
from edgekit.specs import Precision, TensorSpec
from edgekit.storage import resolved

__all__ = ["CONFIG", "DeepStreamModel", "export_deepstream"]

CONFIG = "config_infer_primary.txt"
LABELS = "labels.txt"
PLAN = "model.engine"
ONNX = "model.onnx"
BACKGROUND = "background"

_COLORS = {"rgb": 0, "bgr": 1, "gray": 2}
_ORDERS = {"nchw": 0, "nhwc": 1}
_MODES = {Precision.FP32: 0, Precision.INT8: 1, Precision.FP16: 2, Precision.BF16: 2}
_DETECTOR, _CLASSIFIER, _OTHER = 0, 1, 100
_PADDED_WITH = 0
"""nvinfer has no setting for the pixels around a letterboxed frame, and leaves them black."""


class DeepStreamModel(msgspec.Struct, frozen=True):
    """An exported model.

    Attributes:
        path: its folder.
        config: nvinfer's configuration in it.
        parser: the function that reads the outputs; empty if none does.
        notes: notes for the user.
    """

    path: Path
    config: Path
    parser: str
    notes: tuple[str, ...]


def export_deepstream(bundle: Path, folder: Path) -> DeepStreamModel:
    """Writes the engine of a bundle and nvinfer's configuration into a folder; the engine does not have to run here.

    A model that was exported before and not changed since is replaced.

    Args:
        bundle: the engine's folder.
        folder: the folder to write; created if missing.

    Raises:
        UsageError: not a bundle, an engine that nvinfer cannot run, or the folder has other files in it.
        EngineMismatch: the bundle is damaged, or has a graph that nvinfer cannot build.
        BuildError: the folder cannot be written.
    """
    return read_engine(bundle, lambda found: _exported(found.at, resolved(folder)))


def _exported(bundle: Path, place: Path) -> DeepStreamModel:
    manifest = manifest_in(bundle)
    source, name = _model_file(bundle, manifest)
    check_files(bundle, manifest, [source])
    require_one_line_labels(bundle, manifest, LABELS)
    image, preprocess = _image_input(bundle, manifest)
    classes = _number_of_classes(bundle, manifest)
    parser = _parser(manifest, classes)
    other = f"choose another {either('DIR', 'folder')}"
    replaced = require_own_folder(place, config=CONFIG, ours={CONFIG, LABELS, PLAN, ONNX}, other=other)
    config = _config(manifest, name, image, preprocess, parser, classes)
    background = isinstance(parser, Parser) and parser.background
    try:
        with staged_folder(place) as folder:
            shutil.copyfile(bundle / source, folder / name)
            if manifest.labels:
                text = f"{BACKGROUND}\n{labels_text(manifest)}" if background else labels_text(manifest)
                # A classifier's labels are on one line, which stands for one attribute.
                text = ";".join(manifest.labels) + "\n" if manifest.task == "classify" else text
                (folder / LABELS).write_text(text, encoding="utf-8")
            (folder / CONFIG).write_text(sealed(config), encoding="utf-8")
    except BuildError as e:
        raise BuildError(e.message, hint=other) from e
    function = parser.function if isinstance(parser, Parser) else ""
    return DeepStreamModel(place, place / CONFIG, function, (*replaced, *_notes(manifest, preprocess, parser)))


def _model_file(bundle: Path, manifest: Manifest) -> tuple[str, str]:
    """Returns the file of the bundle that nvinfer reads, and its name in the exported folder."""
    if manifest.backend != "tensorrt":
        raise UsageError(
            f"{bundle}: DeepStream runs TensorRT's plans, got an engine for '{manifest.backend}'",
            hint=f"build it again with {argument('target', 'tensorrt')}",
        )
    if manifest.engine_options.get("strip_weights"):
        raise UsageError(
            f"{bundle}: the plan has no weights, and nvinfer cannot add them",
            hint=f"build it again without {argument('strip_weights', within='engine')}",
        )
    if manifest.engine:
        return manifest.engine, PLAN
    # nvinfer builds ONNX files without strong types, so that a typed graph would lose its types.
    if manifest.precision is Precision.FP32 and GRAPH in manifest.files:
        return GRAPH, ONNX
    raise EngineMismatch(
        f"{bundle} has a graph for {manifest.backend}, but no engine yet, and nvinfer builds FP32 graphs only",
        hint=compile_hint(bundle, manifest.backend),
    )


def _image_input(bundle: Path, manifest: Manifest) -> tuple[TensorSpec, Preprocess]:
    if manifest.preprocess is None or len(manifest.inputs) != 1:
        given = ", ".join(str(spec) for spec in manifest.inputs)
        raise UsageError(f"{bundle}: DeepStream runs models with one image input, got {given}")
    image = manifest.inputs[0]
    if image.dtype != "float32":
        raise UsageError(
            f"{bundle}: nvinfer fills inputs of float32, got {image}",
            hint=f"build it again without {argument('half_io')}",
        )
    if any(isinstance(size, str) for size in image.shape[1:]):
        raise UsageError(
            f"{bundle}: nvinfer runs models of one image size, got {image}",
            hint="build it again with one height and one width; the batch size may be a range",
        )
    return image, manifest.preprocess


def _number_of_classes(bundle: Path, manifest: Manifest) -> int:
    if manifest.postprocess is None:
        return len(manifest.labels)
    _, classes = layout(manifest.postprocess.head, _sizes(manifest.outputs))
    found = classes or len(manifest.labels)
    if not found:
        raise UsageError(
            f"{bundle}: nvinfer needs the number of classes, which the outputs do not tell",
            hint=f"build it again with {argument('labels', like='FILE')}",
        )
    return found


def _sizes(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of outputs for one image."""
    return {spec.name: tuple(size if isinstance(size, int) else 1 for size in spec.shape) for spec in specs}


def _parser(manifest: Manifest, classes: int) -> Parser | str:
    if manifest.task == "classify":
        half = [spec for spec in manifest.outputs if spec.dtype != "float32"]
        return f"parsers read float32, and the output '{half[0].name}' is {half[0].dtype}" if half else CLASSIFIER
    if manifest.postprocess is None:
        return f"the task '{manifest.task}' has none"
    if manifest.task != "detect":
        return f"no parser of DeepStream or DeepStream-Yolo fits the task '{manifest.task}'"
    return parser_of(manifest.postprocess.head, manifest, classes)


def _config(
    manifest: Manifest, file: str, image: TensorSpec, how: Preprocess, parser: Parser | str, classes: int
) -> str:
    batch = manifest.shapes[image.name].max[0] if image.name in manifest.shapes else int(image.shape[0])
    kind = _OTHER if isinstance(parser, str) else _CLASSIFIER if manifest.task == "classify" else _DETECTOR
    lines = ["[property]", "gpu-id=0", "gie-unique-id=1", "process-mode=1", "interval=0"]
    lines += [f"{'model-engine-file' if file == PLAN else 'onnx-file'}={file}"]
    lines += [f"network-mode={_MODES[manifest.precision]}", f"network-type={kind}", f"batch-size={batch}"]
    lines += _preprocessing(image, how)
    if manifest.labels:
        lines += [f"labelfile-path={LABELS}"]
    if isinstance(parser, str):
        lines += ["output-tensor-meta=1"]
    elif kind == _CLASSIFIER:
        lines += [f"parse-classifier-func-name={parser.function}", f"custom-lib-path={parser.library}"]
        lines += ["classifier-threshold=0"]
    else:
        lines += [f"num-detected-classes={classes + parser.background}", f"cluster-mode={parser.cluster_mode}"]
        lines += [f"parse-bbox-func-name={parser.function}", f"custom-lib-path={parser.library}"]
    post = manifest.postprocess
    if kind == _DETECTOR and post is not None:
        lines += ["", "[class-attrs-all]", f"pre-cluster-threshold={post.score_threshold:g}"]
        lines += [f"nms-iou-threshold={post.iou_threshold:g}", f"topk={post.max_detections}"]
    return "\n".join(lines) + "\n"


def _preprocessing(image: TensorSpec, how: Preprocess) -> list[str]:
    """Returns the properties of ``y = net-scale-factor * (x - offset)`` and of the frame's place in the input."""
    channels, height, width = image.shape[1:] if how.layout == "nchw" else (image.shape[3], *image.shape[1:3])
    lines = [f"net-scale-factor={_scale(how):.12g}"]
    if any(how.mean):
        lines += [f"offsets={';'.join(f'{how.divisor * mean:.9g}' for mean in how.mean)}"]
    lines += [f"model-color-format={_COLORS[how.color]}", f"network-input-order={_ORDERS[how.layout]}"]
    lines += [f"infer-dims={channels};{height};{width}", f"maintain-aspect-ratio={int(how.resize == 'letterbox')}"]
    return [*lines, "symmetric-padding=1"] if how.resize == "letterbox" and how.place == "center" else lines


def _scale(how: Preprocess) -> float:
    return len(how.std) / (how.divisor * sum(how.std))


def _notes(manifest: Manifest, how: Preprocess, parser: Parser | str) -> Iterator[str]:
    if isinstance(parser, str):
        yield f"no parser fits: {parser}. The outputs are attached to each frame (output-tensor-meta=1)"
    else:
        missing = "" if parser.library.startswith("/") else " into the exported folder"
        yield f"{parser.function} reads the outputs; its library is from {parser.project}: build it{missing}"
        if parser.note:
            yield f"{parser.function}: {parser.note}"
    if max(how.std) > min(how.std):
        off = max(abs(std * _scale(how) * how.divisor - 1) for std in how.std)
        yield f"nvinfer has one scale for all channels: values differ by up to {off:.1%} from those of the model"
    if how.resize == "letterbox" and how.pad != _PADDED_WITH:
        yield f"nvinfer pads frames in black, and the model was made for {how.pad}: detections at the edges may differ"
    if how.resize == "crop":
        yield "nvinfer stretches frames to the input, and the model was made for center crops"
    if manifest.engine_options.get("version_compatible"):
        yield "the plan is version compatible, for which nvinfer has no setting: build another if it is refused"
    if manifest.engine:
        yield f"the plan runs with the TensorRT that built it, {manifest.backend_version}: use a DeepStream that has it"
