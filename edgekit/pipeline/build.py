"""Runs the stages of a build in order; the only module that knows all of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgekit.config import BackendOptions, BuildConfig, TargetConfig
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Manifest
from edgekit.engine.bundle.replacing import replaced_engine
from edgekit.engine.bundle.writing import seal, write_bundle
from edgekit.errors import BackendUnavailable, needs_extra
from edgekit.garbage_collection import few_full_collections
from edgekit.option.objects import SupportsArray
from edgekit.pipeline.measure_engines import is_for_here, measure_engines, require_two_engines
from edgekit.pipeline.model_kind import name_of
from edgekit.pipeline.validate import build_config, require_buildable
from edgekit.progress import KeptNotes, Progress, shown_progress
from edgekit.recipe.schema import Preprocess
from edgekit.specs import Precision
from edgekit.storage import require_room

if TYPE_CHECKING:
    from edgekit.pipeline.loaded_model import LoadedModel

__all__ = ["build"]


def build(
    model: Any,
    *,
    precision: Literal["int8", "fp16", "bf16", "fp32"] = "int8",
    target: Literal["cpu", "openvino", "tensorrt", "tensorrt-rtx", "null"] | None = None,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    calib: str | Path | SupportsArray | Iterable[Any] | Callable[[], Any] | None = None,
    calib_method: Literal["minmax", "percentile", "entropy", "mse"] | None = None,
    calib_images: int | None = None,
    calib_column: str | None = None,
    keep_float: Sequence[str] = (),
    quantize_heads: bool = False,
    noise_budget: int = 10,
    output: str | Path | None = None,
    shape: Sequence[int | Sequence[int]] | None = None,
    input: SupportsArray | Mapping[str, Any] | Sequence[Any] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    opset: int | None = None,
    seed: int = 0,
    threads: int = 0,
    profile: bool = True,
    require_faster: bool = False,
    allow_noise: bool = False,
    head: str | None = None,
    head_option: Mapping[str, Any] | None = None,
    no_head: bool = False,
    batch: int | Sequence[int] | None = None,
    attention: Literal["auto", "off", "native", "edgekit", "edgekit-int8"] = "auto",
    half_io: bool = False,
    dynamic: bool = False,
    static: bool = False,
    weights_only: bool = False,
    graph_only: bool = False,
    force: bool = False,
    engine: BackendOptions | Mapping[str, Any] | None = None,
    progress: Progress | bool = True,
) -> Path:
    """Compiles a model into an engine.

    Args:
        model: name or file of a recipe, a Darknet cfg file, an ONNX file, ``package.module:factory``, or an
            ``nn.Module``.
        precision: ``int8``, ``fp16``, ``bf16`` or ``fp32``; not every target has all of them.
        target: the backend; default: ``tensorrt`` if TensorRT and a GPU are found, else ``cpu``.
        weights: a Darknet, PyTorch or safetensors file, or a published weight set of the recipe, such as ``coco``.
        labels: file with the names of the model's classes: one per line, a data YAML or COCO JSON; default: those that
            the weights were trained with, else those of the model.
        calib: what INT8 is calibrated on: a folder, a manifest, or the name of a set; or a PyTorch ``DataLoader``, an
            iterable of arrays, of dictionaries of arrays by input name or of (input, target) pairs, one array, or a
            function that returns one of these. An iterable is read once. Arrays of uint8 and Pillow images are images,
            which are preprocessed; other arrays are inputs of the model. A first dimension may be another batch.
        calib_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        calib_images: calibrate on at most this many images; default: all of a folder or manifest, 256 of others.
        calib_column: header of the target column of a CSV table to calibrate on; default: label, class or target, else
            the last.
        keep_float: name patterns of graph nodes that stay in float.
        quantize_heads: quantize the last layers before boxes, scores and maps too, and those that a recipe keeps in
            float.
        noise_budget: percent of the multiply-accumulates that may move from INT8 to float: the layers that add most
            noise, while an output of trained weights keeps less than 22 dB on calibration inputs; 0: none.
        output: folder of the bundle; default: ``engines/NAME-PRECISION-TARGET``.
        shape: ``(H, W)`` of the image, or all sizes of the first input.
        input: example inputs of a module or an ONNX file: a tensor, a tuple of tensors in the order of its arguments,
            or a dictionary of tensors by name; names, element types and shapes are taken from them. Or shapes by name;
            the name ``""`` is the first input. Such inputs of a module are float32, unless the name ends in another
            element type: ``ids:int64``. Here and in ``shape``, a tuple of min, opt and max in place of a number makes
            a dimension dynamic: its size is chosen at run time, as in ``(1, 3, 48, (32, 320, 2048))``. A number in
            place of a shape fixes the value of an ONNX file's input: ``{"sr": 16000}``.
        preprocess: how images become inputs: a complete `Preprocess`, or fields that replace those of the recipe or
            the defaults: ``{"color": "bgr"}``.
        opset: the ONNX opset to export to.
        seed: seed of random weights.
        threads: threads that the engine runs on; 0 lets the backend choose.
        profile: measure the engine, and an FP32 engine beside it. Without it, the engine is only compared with the
            original model.
        require_faster: refuse an engine that is not faster than the FP32 engine beside it.
        allow_noise: build an engine whose outputs differ from those of the original model by more than its precision
            explains; a note says by how much.
        head: the family of an ONNX detector's outputs, such as ``yolov8``; default: the one that they look like.
        head_option: parameters of ``head``, as in a recipe: ``{"extras": 32, "masks": "output1"}``.
        no_head: keep the outputs of an ONNX detector as arrays.
        batch: batch size: a number, or the min, opt and max of a range. It replaces a first dimension of 1 in
            ``input`` and ``shape``.
        attention: ``auto`` computes attention in the way that measured fastest on the target; ``off`` treats it as any
            other operators; ``native`` writes ONNX's ``Attention``, for TensorRT 10.14 and later and TensorRT-RTX;
            ``edgekit`` and ``edgekit-int8`` compute it with EdgeKit's kernels, for ``tensorrt``.
        half_io: use half precision for inputs and outputs too.
        dynamic: with ``int8`` on ``cpu``: quantize the inputs of matrix products and LSTMs at run time; nothing is
            calibrated.
        static: with ``int8`` on ``cpu``: calibrate ranges, without trying whether ``dynamic`` is better for a model of
            tokens.
        weights_only: with ``int8`` on ``cpu`` and ``openvino``: store the weights of matrix products in 8 bits;
            nothing is calibrated.
        graph_only: write the typed graph without an engine; `edgekit compile` builds the engine on its machine.
        force: replace an engine of another model at ``output``.
        engine: options of the target's backend: its struct, or some of its fields by name.
        progress: True shows the stages on a terminal and in a notebook, False does not; notes are warnings of the
            category `EdgeKitWarning`. An object of your own receives stages and notes.

    Returns:
        The bundle's folder.

    Raises:
        EdgeKitError: see `edgekit.errors`; no partial output is left behind.
    """
    arguments = {name: value for name, value in locals().items() if name != "progress"}
    config = build_config(**arguments)
    name = name_of(model)
    require_buildable(config)
    place = config.output.output or Path("engines") / f"{name}-{config.target.precision}-{config.target.target}"
    replaced = replaced_engine(
        place, name=name, precision=str(config.target.precision), target=config.target.target, force=config.output.force
    )
    with shown_progress(progress) as shown:
        with write_bundle(place, shown) as folder, few_full_collections():
            _run_stages(folder, place, config, KeptNotes(shown, forward=True))
        if replaced:
            shown.note(replaced)
    return place


def _run_stages(folder: Path, place: Path, config: BuildConfig, progress: KeptNotes) -> None:
    """Runs the stages in the staging folder of the bundle at ``place``, and writes the manifest."""
    # Calibration data of the caller may be larger than memory, which a system's temporary folder may be in.
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch:
        manifest = _built(folder, Path(scratch), place, config, progress)
    # What was recognized has a field of its own: it is no note on each run of the engine.
    notes = tuple(note for note in progress.notes if note not in manifest.recognized)
    seal(folder, msgspec.structs.replace(manifest, notes=notes))


def _built(folder: Path, scratch: Path, place: Path, config: BuildConfig, progress: KeptNotes) -> Manifest:
    """Builds the engine; ``scratch`` is for files that are not part of it."""
    # Imported here: PyTorch and onnx load only when a model is built, and an error names them if they are missing.
    with needs_extra("building an engine", "build"):
        from edgekit.pipeline.best_engine import best_engine
        from edgekit.pipeline.choose_activations import dynamic_if_static_cannot
        from edgekit.pipeline.choose_ranges import calibrated_graph
        from edgekit.pipeline.class_names import with_class_names
        from edgekit.pipeline.compile import compile_reference
        from edgekit.pipeline.inputs import model_inputs
        from edgekit.pipeline.load_model import load_model
        from edgekit.pipeline.reference import reference_outputs
        from edgekit.pipeline.verify import Verifier
        from edgekit.quantize.calibrate.table import write_table

    started = time.perf_counter()
    loaded = load_model(config.model, progress, config.target.target, config.target.precision)
    model = with_class_names(loaded, config.model, progress)
    config = dynamic_if_static_cannot(model, config, progress)
    target, output = config.target, config.output
    require_room(place, _needed_bytes(model, config))
    runs_here = _runs_here(target, progress)
    inputs = model_inputs(model, config.calibration, target, progress, scratch)
    reference = reference_outputs(model, inputs, progress)
    verifier = Verifier(
        model=model,
        inputs=inputs,
        reference=reference,
        target=target,
        allow_noise=output.allow_noise,
        progress=progress,
    )
    verifier.verify_graph()
    model.close()
    calibration, typed = calibrated_graph(model, inputs, reference, config.calibration, target, progress)
    model = replace(model, input_statistics=model.input_statistics or calibration.input_statistics)
    verifier.verify_typed(typed, measured=runs_here)
    engines = []
    if runs_here and output.profile and typed.kept_in_float is not None:
        engines.append(compile_reference(scratch, model, config, progress))
    chosen = best_engine(
        folder, scratch, model, typed, calibration, config, verifier, runs_here=runs_here, started=started
    )
    verifier.target = chosen.config.target
    engines.append(chosen.engine)
    manifest = chosen.engine.manifest
    if chosen.calibration.table is not None and target.precision is Precision.INT8:
        write_table(chosen.calibration.table, folder / "calibration.json")
    here = runs_here and is_for_here(manifest, progress)
    if output.require_faster:
        require_two_engines(engines, here=here)
    if here:
        measure_engines(engines, chosen, verifier, output, started=started)
    return msgspec.structs.replace(manifest, verification=verifier.verification())


def _runs_here(target: TargetConfig, progress: Progress) -> bool:
    """Whether the engine can be measured; notes the reason if it cannot."""
    if target.graph_only:
        return False
    try:
        # The engine's compute capabilities are not known before it is built, so any device is accepted here.
        backend(target.target).require_device(())
    except BackendUnavailable as e:
        progress.note(f"the engine was not measured: {e.message}")
        return False
    return True


def _needed_bytes(model: LoadedModel, config: BuildConfig) -> int:
    """Estimates the disk space of graphs and engines: each holds the weights, which take a quarter in INT8."""
    in_place = 2 * model.stats.weight_bytes
    if model.quantized or config.target.precision is Precision.FP32:
        return in_place
    return in_place // 4 + (in_place if config.output.profile else 0)
