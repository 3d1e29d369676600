"""An engine as a model of Triton Inference Server: a folder of its model repository, with ``config.pbtxt``.

The file is protobuf's text form of ``ModelConfig`` (triton-inference-server/common, ``model_config.proto``), written
here by hand, so that a board needs no protobuf for it.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

import edgekit
from edgekit.engine.bundle.manifest import Manifest, check_files, read_manifest
from edgekit.engine.bundle.staging import staged_folder
from edgekit.errors import BuildError, EngineMismatch, UsageError
from edgekit.specs import TensorSpec

__all__ = ["TritonModel", "export_triton"]

VERSION = "1"
CONFIG = "config.pbtxt"
LABELS = "labels.txt"
ANOTHER_PLACE = "choose another DIR or another --name"


class Runner(msgspec.Struct, frozen=True):
    """How Triton runs a target's engines.

    Attributes:
        fields: ``platform`` and ``backend`` of the model's configuration.
        kind: of the instances.
        files: what the engine's files are called there.
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
        # The graph names the file of its weights, so that one keeps its name.
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
    "the plan is for several versions of TensorRT: start Triton with --backend-config=tensorrt,version-compatible=true"
)
RTX = (
    "the plan is TensorRT-RTX's, and Triton's own images bring TensorRT, which refuses it: serve it with a tensorrt "
    "backend that is built with TensorRT-RTX, or build the engine with --target tensorrt"
)


class TritonModel(msgspec.Struct, frozen=True):
    """What was written: the model's folder, and what its user has to know."""

    path: Path
    notes: tuple[str, ...]


def export_triton(bundle: Path, repository: Path, *, name: str | None = None) -> TritonModel:
    """Writes the engine of a bundle into a model repository of Triton; it need not run here.

    A model that was exported before and not touched since is replaced.

    Args:
        bundle: the engine's folder.
        repository: holds a folder a model; made where there is none.
        name: the model's; its own where none is given.

    Raises:
        UsageError: no bundle; an engine that Triton cannot run; or something of somebody else stands in the place.
        EngineMismatch: the bundle is damaged, or holds a graph and no engine yet.
        BuildError: the folder cannot be written.
    """
    manifest = read_manifest(bundle)
    runner = _runner(bundle, manifest)
    names = [file for file in runner.files if file in manifest.files]
    if manifest.engine not in names:
        raise EngineMismatch(f"{bundle}: expected the engine '{next(iter(runner.files))}', got '{manifest.engine}'")
    check_files(bundle, manifest, names)
    called = re.sub(r"[^\w.-]", "_", manifest.name) if name is None else name
    if not re.fullmatch(r"\w[\w.-]*", called):
        raise UsageError(f"--name: expected letters, digits, '.', '_' and '-', got '{called}'")
    place = Path(repository).resolve() / called
    _refuse_strangers(place)
    try:
        with staged_folder(place) as folder:
            (folder / VERSION).mkdir()
            for file in names:
                shutil.copyfile(bundle / file, folder / VERSION / runner.files[file])
            if manifest.labels:
                (folder / LABELS).write_text("".join(f"{label}\n" for label in manifest.labels), encoding="utf-8")
            (folder / CONFIG).write_text(_sealed(_config(called, manifest, runner)), encoding="utf-8")
    except BuildError as e:
        raise BuildError(e.message, hint=ANOTHER_PLACE) from e
    return TritonModel(place, tuple(_notes(manifest)))


def _runner(bundle: Path, manifest: Manifest) -> Runner:
    if manifest.backend not in RUNNERS:
        raise UsageError(
            f"{bundle}: Triton runs engines for {', '.join(RUNNERS)}, got one for '{manifest.backend}'",
            hint="build it anew with one of these as --target",
        )
    if not manifest.engine:
        raise EngineMismatch(
            f"{bundle} holds a graph for {manifest.backend}, and no engine yet",
            hint=f"edgekit compile {shlex.quote(str(bundle))} --target {manifest.backend}",
        )
    if manifest.engine_options.get("strip_weights"):
        raise UsageError(
            f"{bundle}: the plan has no weights in it, and Triton puts none back",
            hint="build it anew without --strip-weights",
        )
    return RUNNERS[manifest.backend]


def _notes(manifest: Manifest) -> Iterable[str]:
    if manifest.backend == "tensorrt-rtx":
        yield RTX
    if manifest.engine_options.get("version_compatible"):
        yield VERSION_COMPATIBLE
    shapes = [manifest.shapes[spec.name] for spec in manifest.inputs if spec.name in manifest.shapes]
    least = max((shape.min[0] for shape in shapes), default=1)
    if _max_batch_size(manifest) and least > 1:
        yield f"the engine takes no batch of less than {least}; Triton cannot be told, and smaller requests will fail"


def _max_batch_size(manifest: Manifest) -> int:
    """The greatest batch, where all inputs and outputs have one that is chosen at run time; else 0, for none."""
    specs = (*manifest.inputs, *manifest.outputs)
    if not manifest.inputs or not all(spec.shape and isinstance(spec.shape[0], str) for spec in specs):
        return 0
    shapes = [manifest.shapes.get(spec.name) for spec in manifest.inputs]
    greatest = {0 if shape is None else shape.max[0] for shape in shapes}
    return greatest.pop() if len(greatest) == 1 else 0


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
    """The fields of an input or an output; Triton's shapes are without a batch that it chooses, and never empty."""
    if spec.dtype not in DATA_TYPES:
        raise UsageError(f"Triton knows no element type of {spec}")
    if spec.shape == ("?",):
        raise UsageError(f"Triton wants the number of dimensions of every output, which is not known of '{spec.name}'")
    shape = [size if isinstance(size, int) else -1 for size in (spec.shape[1:] if batch else spec.shape)]
    lines = [f"name: {_quoted(spec.name)}", f"data_type: {DATA_TYPES[spec.dtype]}"]
    lines.append(f"dims: [ {', '.join(map(str, shape or [1]))} ]")
    if not shape:
        lines.append("reshape: { shape: [ ] }")
    if labels and _is_score_a_class(shape, len(labels)):
        lines.append(f"label_filename: {_quoted(LABELS)}")
    return lines


def _is_score_a_class(shape: Sequence[int], classes: int) -> bool:
    """Whether the numbers are one a class, of one picture."""
    return shape[-1:] == [classes] and all(size == 1 for size in shape[:-1])


def _listed(messages: Iterable[Sequence[str]]) -> list[str]:
    blocks = ["\n".join(["  {", *(f"    {line}" for line in lines), "  }"]) for lines in messages]
    return [block + ("," if index + 1 < len(blocks) else "") for index, block in enumerate(blocks)]


def _quoted(text: str) -> str:
    """A string of protobuf's text form."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else "".join(f"\\{b:03o}" for b in c.encode()) for c in escaped) + '"'


def _sealed(config: str) -> str:
    """The configuration after a line by which we know it again, if nobody has edited it."""
    return f"{_seal(config)}\n{config}"


def _seal(config: str) -> str:
    digest = hashlib.sha256(config.encode()).hexdigest()
    return f"# Written by EdgeKit {edgekit.__version__}; sha256 of what follows: {digest}"


def _refuse_strangers(place: Path) -> None:
    """Lets pass what is not there, is empty, or was written by us and not touched since."""
    if not place.exists():
        return
    if not place.is_dir():
        raise UsageError(f"cannot write a model to {place}: it is a file", hint=ANOTHER_PLACE)
    present = {p.relative_to(place).as_posix() for p in place.rglob("*") if not p.is_dir()}
    if not present:
        return
    ours = {CONFIG, LABELS, *(f"{VERSION}/{file}" for runner in RUNNERS.values() for file in runner.files.values())}
    if strangers := sorted(present - ours):
        raise UsageError(
            f"{place} has files that EdgeKit did not put there: {', '.join(strangers[:3])}; nothing was touched",
            hint=f"move them away or {ANOTHER_PLACE}",
        )
    if not _is_ours(place / CONFIG):
        raise UsageError(
            f"{place / CONFIG} is not as EdgeKit has written it: nothing was touched",
            hint=f"move the model away or {ANOTHER_PLACE}",
        )


def _is_ours(config: Path) -> bool:
    try:
        first, _, rest = config.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    digest = hashlib.sha256(rest.encode()).hexdigest()
    return first.startswith("# Written by EdgeKit") and first.endswith(digest)
