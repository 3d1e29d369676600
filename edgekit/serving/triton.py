"""Exports an engine as a model of Triton Inference Server: a folder of a model repository, with ``config.pbtxt``.

``config.pbtxt`` is ``ModelConfig`` (triton-inference-server/common, ``model_config.proto``) in protobuf's text format.
It is written without the package protobuf, which a board may not have.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edgekit.arguments import argument, either
from edgekit.engine.bundle.checks import check_files
from edgekit.engine.bundle.manifest import Manifest, compile_hint, manifest_in, read_engine
from edgekit.engine.bundle.staging import staged_folder
from edgekit.errors import BuildError, EngineMismatch, UsageError
from edgekit.serving.exported_folder import labels_text, require_one_line_labels, require_own_folder, sealed
from edgekit.specs import TensorSpec
from edgekit.storage import resolved

__all__ = ["TritonModel", "export_triton"]

VERSION = "1"
CONFIG = "config.pbtxt"
LABELS = "labels.txt"


class Runner(msgspec.Struct, frozen=True):
    """How Triton runs the engines of a target.

    Attributes:
        fields: ``platform`` and ``backend`` of the model's configuration.
        kind: ``kind`` of the instance group.
        files: Triton's names of the engine's files, by EdgeKit's names.
    """

    fields: dict[str, str]
    kind: str
    files: dict[str, str]


PLAN = Runner({"platform": "tensorrt_plan", "backend": "tensorrt"}, "KIND_GPU", {"engine.plan": "model.plan"})
RUNNERS = {
    "tensorrt": PLAN,
    "tensorrt-rtx": PLAN,
    "cpu": Runner(
        {"platform": "onnxruntime_onnx", "backend": "onnxruntime"},
        "KIND_CPU",
        # The ONNX file refers to its weights file by name.
        {"engine.onnx": "model.onnx", "engine.onnx.data": "engine.onnx.data"},
    ),
    "openvino": Runner({"backend": "openvino"}, "KIND_CPU", {"engine.xml": "model.xml", "engine.bin": "model.bin"}),
}

DATA_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}

VERSION_COMPATIBLE = (
    "the plan is version compatible: start Triton with --backend-config=tensorrt,version-compatible=true"
)


class TritonModel(msgspec.Struct, frozen=True):
    """An exported model: its folder, and notes for the user."""

    path: Path
    notes: tuple[str, ...]


def export_triton(bundle: Path, repository: Path, *, name: str | None = None) -> TritonModel:
    """Writes the engine of a bundle into a Triton model repository; the engine does not have to run here.

    A model that was exported before and not changed since is replaced.

    Args:
        bundle: the engine's folder.
        repository: contains one folder per model; created if missing.
        name: name of the exported model; None for the model's own name.

    Raises:
        UsageError: not a bundle, an engine that Triton cannot run, or the model's folder has other files in it.
        EngineMismatch: the bundle is damaged, or has a graph but no engine.
        BuildError: the folder cannot be written.
    """
    return read_engine(bundle, lambda folder: _exported(folder.at, repository, name))


def _exported(bundle: Path, repository: Path, name: str | None) -> TritonModel:
    manifest = manifest_in(bundle)
    runner = _runner(bundle, manifest)
    names = [file for file in runner.files if file in manifest.files]
    if manifest.engine not in names:
        raise EngineMismatch(f"{bundle}: expected the engine '{next(iter(runner.files))}', got '{manifest.engine}'")
    check_files(bundle, manifest, names)
    require_one_line_labels(bundle, manifest, LABELS)
    called = re.sub(r"[^\w.-]", "_", manifest.name) if name is None else name
    if not re.fullmatch(r"\w[\w.-]*", called):
        raise UsageError(f"{argument('name')}: expected letters, digits, '.', '_' and '-', got '{called}'")
    place = resolved(repository) / called
    files = {f"{VERSION}/{file}" for runner in RUNNERS.values() for file in runner.files.values()}
    replaced = require_own_folder(place, config=CONFIG, ours={CONFIG, LABELS, *files}, other=_other_folder())
    try:
        with staged_folder(place) as folder:
            (folder / VERSION).mkdir()
            for file in names:
                shutil.copyfile(bundle / file, folder / VERSION / runner.files[file])
            if manifest.labels:
                (folder / LABELS).write_text(labels_text(manifest), encoding="utf-8")
            (folder / CONFIG).write_text(sealed(_config(called, manifest, runner)), encoding="utf-8")
    except BuildError as e:
        raise BuildError(e.message, hint=_other_folder()) from e
    return TritonModel(place, (*replaced, *_notes(manifest)))


def _other_folder() -> str:
    return f"choose another {either('DIR', 'repository')} or another {argument('name')}"


def _runner(bundle: Path, manifest: Manifest) -> Runner:
    if manifest.backend not in RUNNERS:
        raise UsageError(
            f"{bundle}: Triton runs engines for {', '.join(RUNNERS)}, got one for '{manifest.backend}'",
            hint=f"build it again with one of these as {argument('target')}",
        )
    if not manifest.engine:
        raise EngineMismatch(
            f"{bundle} has a graph for {manifest.backend}, but no engine yet",
            hint=compile_hint(bundle, manifest.backend),
        )
    if manifest.engine_options.get("strip_weights"):
        raise UsageError(
            f"{bundle}: the plan has no weights, and Triton cannot add them",
            hint=f"build it again without {argument('strip_weights', within='engine')}",
        )
    return RUNNERS[manifest.backend]


def _notes(manifest: Manifest) -> Iterable[str]:
    if manifest.backend == "tensorrt-rtx":
        yield (
            "the plan is for TensorRT-RTX, and Triton's images contain TensorRT, which cannot load it: serve it with a "
            "tensorrt backend that is built with TensorRT-RTX, or build the engine with "
            f"{argument('target', 'tensorrt')}"
        )
    if manifest.engine_options.get("version_compatible"):
        yield VERSION_COMPATIBLE
    shapes = [manifest.shapes[spec.name] for spec in manifest.inputs if spec.name in manifest.shapes]
    min_batch = max((shape.min[0] for shape in shapes), default=1)
    if _max_batch_size(manifest) and min_batch > 1:
        yield f"the engine's min batch is {min_batch}; Triton has no such setting, so smaller requests will fail"


def _max_batch_size(manifest: Manifest) -> int:
    """Returns the max batch if all inputs and outputs have a dynamic batch; else 0, which turns batching off."""
    specs = (*manifest.inputs, *manifest.outputs)
    if not manifest.inputs or not all(spec.shape and isinstance(spec.shape[0], str) for spec in specs):
        return 0
    shapes = [manifest.shapes.get(spec.name) for spec in manifest.inputs]
    batches = {0 if shape is None else shape.max[0] for shape in shapes}
    return batches.pop() if len(batches) == 1 else 0


def _config(name: str, manifest: Manifest, runner: Runner) -> str:
    batch = _max_batch_size(manifest)
    lines = [f"name: {_quoted(name)}"]
    lines += [f"{field}: {_quoted(value)}" for field, value in runner.fields.items()]
    lines += [f"max_batch_size: {batch}"]
    lines += ["input [", *_listed(_tensor(spec, batch, ()) for spec in manifest.inputs), "]"]
    lines += ["output [", *_listed(_tensor(spec, batch, manifest.labels) for spec in manifest.outputs), "]"]
    lines += ["instance_group [", *_listed([["count: 1", f"kind: {runner.kind}"]]), "]"]
    if batch > 1:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _tensor(spec: TensorSpec, batch: int, labels: Sequence[str]) -> list[str]:
    """Returns the fields of an input or output; Triton's ``dims`` have no dynamic batch and are never empty."""
    if spec.dtype not in DATA_TYPES:
        raise UsageError(f"Triton does not support the element type of {spec}")
    if spec.shape == ("?",):
        raise UsageError(f"Triton needs the rank of every output, and that of '{spec.name}' is unknown")
    shape = [size if isinstance(size, int) else -1 for size in (spec.shape[1:] if batch else spec.shape)]
    lines = [f"name: {_quoted(spec.name)}", f"data_type: {DATA_TYPES[spec.dtype]}"]
    lines.append(f"dims: [ {', '.join(map(str, shape or [1]))} ]")
    if not shape:
        lines.append("reshape: { shape: [ ] }")
    if labels and _is_score_a_class(shape, len(labels)):
        lines.append(f"label_filename: {_quoted(LABELS)}")
    return lines


def _is_score_a_class(shape: Sequence[int], classes: int) -> bool:
    """Whether a shape holds one score per class, for one image."""
    return shape[-1:] == [classes] and all(size == 1 for size in shape[:-1])


def _listed(messages: Iterable[Sequence[str]]) -> list[str]:
    blocks = ["\n".join(["  {", *(f"    {line}" for line in lines), "  }"]) for lines in messages]
    return [block + ("," if index + 1 < len(blocks) else "") for index, block in enumerate(blocks)]


def _quoted(text: str) -> str:
    """Returns a string literal of protobuf's text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else "".join(f"\\{b:03o}" for b in c.encode()) for c in escaped) + '"'
