"""What can be compared: bundles, ONNX files as plain ONNX Runtime runs them, and reports of earlier measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from edgekit.arguments import argument, either, in_shell
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import MANIFEST, Manifest, manifest_in, read_engine
from edgekit.engine.onnxruntime.backend import load_plain
from edgekit.errors import DataError, UsageError
from edgekit.measure.reports import BuildReport, LatencyReport, build_report_from_bundle
from edgekit.specs import TensorSpec, sizes_of, sizes_take, specs_at
from edgekit.text import json_value, shell_quoted

__all__ = ["Contender", "contenders_from_paths", "same_feeds"]

WANTED = "a folder with an engine, an ONNX file, or a JSON file of `edgekit profile` or of a build"


class Contender(NamedTuple):
    """One of the engines that are compared.

    Attributes:
        name: a name that no other contender has.
        kind: ``engine``, ``onnx``, or ``report`` for a measurement that was made before.
        path: where it was found.
        precision: precision of the engine; empty for a foreign file.
        backend: the backend.
        backend_version: version of the vendor's library.
        size_bytes: size of the engine's files; None if unknown.
        manifest: the bundle's manifest.
        report: the latency report of the file, or of the bundle's build.
        facts: further measurements of the bundle's build.
    """

    name: str
    kind: Literal["engine", "onnx", "report"]
    path: str
    precision: str = ""
    backend: str = ""
    backend_version: str = ""
    size_bytes: int | None = None
    manifest: Manifest | None = None
    report: LatencyReport | None = None
    facts: Mapping[str, Any] = {}


def contenders_from_paths(paths: Sequence[str | Path]) -> list[Contender]:
    """Reads what ``paths`` name. If one of them is a JSON file, the others must be reports, or bundles with one.

    Raises:
        UsageError: fewer than two, a path that is none of them, or a bundle without a report among JSON files.
        DataError: a JSON file is not a report.
    """
    if len(paths) < 2:
        raise UsageError(
            f"expected two or more to compare, got {len(paths)}",
            hint=either("edgekit compare A B", "edgekit.compare(['A', 'B'])"),
        )
    found = [_contender(Path(path)) for path in paths]
    if any(each.kind == "report" for each in found):
        found = [_as_report(each) for each in found]
    return _with_own_names(found)


def _contender(path: Path) -> Contender:
    if (path / MANIFEST).is_file():
        return _engine(path)
    if path.is_file() and path.suffix.lower() == ".onnx":
        return _onnx(path)
    if path.is_file() and path.suffix.lower() == ".json":
        return _from_report(path)
    found = "a file" if path.is_file() else "a folder without an engine" if path.is_dir() else "nothing"
    raise UsageError(f"{path}: expected {WANTED}, got {found}")


def _engine(path: Path) -> Contender:
    manifest, built = read_engine(path, lambda folder: (manifest_in(folder.at), build_report_from_bundle(folder.at)))
    stem = Path(manifest.engine).stem
    sizes = [info.size_bytes for name, info in manifest.files.items() if Path(name).name.startswith(f"{stem}.")]
    return Contender(
        name=path.name or str(path),
        kind="engine",
        path=str(path),
        precision=str(manifest.precision),
        backend=manifest.backend,
        backend_version=manifest.backend_version,
        size_bytes=sum(sizes),
        manifest=manifest,
        report=None if built is None else list(built.engines.values())[-1],
        facts={} if built is None else built.facts,
    )


def _onnx(path: Path) -> Contender:
    return Contender(
        name=path.name,
        kind="onnx",
        path=str(path),
        backend="plain ONNX Runtime",
        backend_version=backend("cpu").version(),
        size_bytes=path.stat().st_size,
    )


def _from_report(path: Path) -> Contender:
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: expected a report, got: {e.strerror}") from e
    facts: Mapping[str, Any] = {}
    try:
        content = json_value(data)
        if isinstance(content, dict) and "engines" in content:
            built = msgspec.convert(content, BuildReport)
            report, facts = list(built.engines.values())[-1], built.facts
        else:
            if isinstance(content, dict) and content.get("measured") is False:
                raise DataError(
                    f"{path}: expected a measured latency, got an estimate: {content.get('reason', '')}",
                    hint="measure the engine on a machine that can run it",
                )
            report = msgspec.convert(content, LatencyReport)
    except (msgspec.DecodeError, IndexError) as e:
        raise DataError(f"{path}: expected a report of `edgekit profile --json-file` or of a build, got {e}") from e
    # Every bundle's report has the same name; its folder tells them apart.
    name = path.parent.name if path.name == "report.json" and path.parent.name else path.stem
    return _report_contender(name, str(path), report, facts)


def _report_contender(name: str, path: str, report: LatencyReport, facts: Mapping[str, Any]) -> Contender:
    return Contender(
        name=name,
        kind="report",
        path=path,
        precision=report.precision,
        backend=report.backend,
        backend_version=report.backend_version,
        size_bytes=report.engine_bytes,
        report=report,
        facts=facts,
    )


def _as_report(contender: Contender) -> Contender:
    if contender.kind == "report":
        return contender
    if contender.report is None:
        raise UsageError(
            f"{contender.path}: expected a report, as the others are reports, got one that was not measured",
            hint=in_shell(f"edgekit profile {shell_quoted(contender.path)} --json-file report.json")
            if contender.kind == "engine"
            else "",
        )
    return _report_contender(contender.name, contender.path, contender.report, contender.facts)


def _with_own_names(contenders: Sequence[Contender]) -> list[Contender]:
    """Names contenders by their paths where their names are the same, and numbers them where these are, too."""
    names = [each.name for each in contenders]
    if len(set(names)) < len(names):
        names = [each.path for each in contenders]
    if len(set(names)) < len(names):
        names = [f"{name} ({index})" for index, name in enumerate(names, 1)]
    return [each._replace(name=name) for each, name in zip(contenders, names, strict=True)]


def same_feeds(
    contenders: Sequence[Contender], sizes: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Generates the same random inputs for each contender, under its own names and in its own element types.

    Inputs are matched by name, or by position if the names differ. Dynamic sizes are the opt sizes of the first
    contender that has them, or those in ``sizes``.

    Args:
        contenders: engines and ONNX files.
        sizes: shapes by name of input; the name ``""`` is the first input.
        seed: seed of the inputs.

    Returns:
        For each contender, arrays by name.

    Raises:
        UsageError: the inputs do not fit each other, or a size is unknown.
    """
    inputs = [list(_inputs(each)) for each in contenders]
    shapes = _common_shapes(contenders, inputs, sizes or {})
    random = np.random.default_rng(seed)
    kinds = [np.dtype(spec.dtype).kind for spec in inputs[0]]
    values = [
        random.standard_normal(shape) if kind == "f" else random.integers(0, 2, shape)
        for shape, kind in zip(shapes, kinds, strict=True)
    ]
    feeds = []
    for contender, specs in zip(contenders, inputs, strict=True):
        for spec, kind, first in zip(specs, kinds, inputs[0], strict=True):
            # Among integers and booleans, 0 and 1 are the same values in every type.
            if (np.dtype(spec.dtype).kind == "f") != (kind == "f"):
                raise UsageError(
                    f"{contender.name}: expected inputs of the same kind to compare, got {spec} and {first}"
                )
        feeds.append({spec.name: value.astype(spec.dtype) for spec, value in zip(specs, values, strict=True)})
    return feeds


def _inputs(contender: Contender) -> tuple[TensorSpec, ...]:
    if contender.manifest is not None:
        return contender.manifest.inputs
    with closing(load_plain(Path(contender.path), threads=1)) as engine:
        return engine.inputs


def _common_shapes(
    contenders: Sequence[Contender], inputs: list[list[TensorSpec]], sizes: Mapping[str, Sequence[int]]
) -> list[tuple[int, ...]]:
    """Orders the inputs of all contenders as those of the first, in place, and returns their shapes."""
    first = inputs[0]
    for index, specs in enumerate(inputs):
        if len(specs) != len(first):
            raise UsageError(
                f"{contenders[index].name}: expected the {len(first)} inputs of {contenders[0].name}, got {len(specs)}"
            )
        by_name = {spec.name: spec for spec in specs}
        if set(by_name) == {spec.name for spec in first}:
            inputs[index] = [by_name[spec.name] for spec in first]
    known = {name: tuple(shape) for name, shape in sizes.items()}
    if "" in known:
        known.setdefault(first[0].name, known.pop(""))
    unknown = set(known) - {spec.name for spec in first}
    if unknown:
        raise UsageError(f"{argument('sizes', flag='--input')}: {contenders[0].name} has no input '{min(unknown)}'")
    shapes = []
    for position, spec in enumerate(first):
        specs = [each[position] for each in inputs]
        shape, source = (
            (known[spec.name], argument("sizes", flag="--input")) if spec.name in known else _shape(contenders, specs)
        )
        _check_shape(contenders, specs, shape, source)
        shapes.append(shape)
    return shapes


def _shape(contenders: Sequence[Contender], specs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], str]:
    """Returns the shape of an input, and the name of the contender that it is from: the first with a whole shape."""
    for contender, spec in zip(contenders, specs, strict=True):
        ranges = contender.manifest.shapes if contender.manifest else {}
        at = specs_at([spec], ranges)[0].shape
        if all(isinstance(size, int) and size > 0 for size in at):
            return tuple(int(size) for size in at), contender.name
    raise UsageError(
        f"input '{specs[0].name}': expected sizes, got {specs[0].shape}",
        hint=f"{argument('sizes', {specs[0].name: (1, 3, 224, 224)}, flag='--input')}",
    )


def _check_shape(
    contenders: Sequence[Contender], specs: Sequence[TensorSpec], shape: tuple[int, ...], source: str
) -> None:
    for contender, spec in zip(contenders, specs, strict=True):
        ranges = contender.manifest.shapes if contender.manifest else {}
        if len(spec.shape) != len(shape) or not sizes_take(sizes_of(spec, ranges), shape):
            raise UsageError(
                f"{contender.name}: expected an input of {'x'.join(map(str, shape))}, as {source} has, got {spec}",
                hint="give a shape that all accept: "
                f"{argument('sizes', like=either('NAME:SHAPE', '{NAME: SHAPE}'), flag='--input')}",
            )
