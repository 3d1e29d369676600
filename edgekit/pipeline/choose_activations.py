"""Chooses how token models quantize activations on ``cpu``: by calibrated ranges, or by those of each run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.config import BuildConfig
from edgekit.engine.backend import scheme_of
from edgekit.engine.bundle.manifest import ActivationsInfo
from edgekit.errors import BuildError, GraphError
from edgekit.graph.operators import RECURRENT
from edgekit.measure.compare import BuiltEngine
from edgekit.measure.speed import opened_engines, ratio_by_turns
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.compile import compile_engine
from edgekit.pipeline.inputs import Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph, typed_graph
from edgekit.pipeline.quant_policy import quant_policy
from edgekit.pipeline.reference import Reference
from edgekit.progress import KeptNotes, Progress
from edgekit.quantize.compare import noise_of_outputs, worst_noise
from edgekit.quantize.dynamic import require_dynamic
from edgekit.quantize.quantize import require_quantizable
from edgekit.runtime.session import Session
from edgekit.specs import Precision

__all__ = ["Chosen", "better_of_both", "dynamic_if_static_cannot"]

LEAST_SHARE = 0.5
"""Share of a network's work in products of tokens and recurrent layers from which dynamic quantization is tried.
Convolutions stay in float with it."""

SAME_DB = 0.5
CLEARER_DB = 1.0
SAME_TIME = 1.03
FASTER = 0.97
"""Dynamic quantization is taken if it is faster at no lower signal-to-noise ratio, or clearer at no more time."""

TIME_OF_ONE_TOKEN = 1.0
"""Time with dynamic quantization of a network that reads one token, as a share of that with calibrated ranges. Measured
with ONNX Runtime 1.32 on x86 with VNNI, one thread: 0.81 to 1.12 in layers of 128 to 1024 channels, 0.86 of the blocks
of a Llama."""

BUILD_SHARE = 0.1
"""Part of the time of the build so far that both engines are run for."""
ROUNDS = 6
LEAST_ROUND_S, LARGEST_ROUND_S = 0.01, 0.05


class Chosen(NamedTuple):
    """The engine that is kept, and what it was built from and with."""

    engine: BuiltEngine
    typed: TypedGraph
    calibration: Calibration
    config: BuildConfig


def dynamic_if_static_cannot(model: LoadedModel, config: BuildConfig, progress: Progress) -> BuildConfig:
    """Returns the config with ``dynamic`` set if INT8 by calibration finds nothing to quantize, and dynamic does.

    A network of LSTMs is one: they have no kernel for calibrated ranges.
    """
    if not _is_free(model, config):
        return config
    policy = quant_policy(model, config.calibration, config.target.precision)
    try:
        require_quantizable(model.graph, scheme_of(config.target), policy)
    except GraphError as reason:
        try:
            require_dynamic(model.graph, scheme_of(config.target), policy, lstm=True)
        except GraphError:
            return config  # calibration will raise the first error
        progress.note(f"built as with {argument('dynamic', True)}: {reason.message}")
        return _dynamic(config)
    return config


def better_of_both(
    static: Chosen,
    model: LoadedModel,
    inputs: Inputs,
    reference: Reference,
    *,
    scratch: Path,
    elapsed_s: float | None,
    progress: Progress,
) -> Chosen:
    """Builds the engine with dynamic quantization too, if that may be better, and keeps the better one.

    What decides is the signal-to-noise ratio of the worst output on calibration inputs, and the time of both engines
    by turns; of a network that reads one token, the ratio alone if no time may be measured. A note and the manifest say
    what was chosen and why.

    Args:
        static: the engine by calibrated ranges, in the bundle's folder.
        model: the loaded model.
        inputs: the inputs to compare on.
        reference: the outputs of the original model for them.
        scratch: an existing folder for the other engine.
        elapsed_s: time of the build so far, a part of which may be spent on measuring; None: no time may be measured.
        progress: receives stages and the note.
    """
    config = static.config
    if not _is_free(model, config) or static.calibration.table is None or not reference.outputs:
        return static
    if _share_of_tokens(model) < LEAST_SHARE or (elapsed_s is None and not _reads_one_token(model)):
        return static
    dynamic_config = _dynamic(config)
    calibration = dataclasses.replace(static.calibration, table=None)
    held = KeptNotes(progress)
    place = scratch / "dynamic"
    place.mkdir()
    try:
        typed = typed_graph(model, calibration, dynamic_config.target, held)
        engine = compile_engine(place, model, typed, calibration, dynamic_config, held)
    except (BuildError, GraphError) as e:
        progress.note(f"calibrated ranges were not compared with {argument('dynamic', True)}: {e.message}")
        return static
    with (
        progress.stage(f"comparing calibrated ranges with {argument('dynamic', True)}"),
        opened_engines((engine, static.engine), threads=config.target.threads) as sessions,
    ):
        dynamic_db, static_db = (_worst_db(session, inputs, reference) for session in sessions)
        if static_db is None or dynamic_db is None:
            return static
        ratio = None
        if elapsed_s is not None and dynamic_db >= static_db - SAME_DB:
            round_s = min(max(BUILD_SHARE * elapsed_s / (2 * ROUNDS), LEAST_ROUND_S), LARGEST_ROUND_S)
            ratio = ratio_by_turns(sessions, inputs.feeds[0], rounds=ROUNDS, round_s=round_s)
    better = is_better(TIME_OF_ONE_TOKEN if elapsed_s is None else ratio, dynamic_db - static_db)
    info = ActivationsInfo(
        how="dynamic" if better else "static",
        static_db=round(static_db, 1),
        dynamic_db=round(dynamic_db, 1),
        time_ratio=None if ratio is None else round(ratio, 2),
    )
    if info.how == "static":
        return _kept(static, info, progress)
    for note in held.notes:
        progress.note(note)
    return _kept(Chosen(_moved(engine, static.engine), typed, calibration, dynamic_config), info, progress)


def _reads_one_token(model: LoadedModel) -> bool:
    """Whether each matrix of weights is multiplied by one row: a step of a language model, with what was read before.

    A matrix is read from memory once then, and the kernel matters little.
    """
    found = [node.inputs[0] for node in model.graph.graph if _reads_tokens(node)]
    rows = [value.shape.dims[:-1] for value in found if value is not None and value.shape is not None]
    return bool(rows) and all(size == 1 for each in rows for size in each)


def is_better(time_ratio: float | None, gain_db: float) -> bool:
    """Whether an engine is better than another: faster at no lower ratio of signal to noise, or clearer in its time.

    Args:
        time_ratio: its time, divided by that of the other; None: it is not better.
        gain_db: its signal-to-noise ratio less that of the other.
    """
    if time_ratio is None:
        return False
    faster = time_ratio <= FASTER and gain_db >= -SAME_DB
    return faster or (time_ratio <= SAME_TIME and gain_db >= CLEARER_DB)


def _is_free(model: LoadedModel, config: BuildConfig) -> bool:
    """Whether the user leaves it open how activations are quantized, and the target can do both."""
    target = config.target
    given = target.static or target.uncalibrated or config.calibration.calib_method is not None
    return target.target == "cpu" and target.precision is Precision.INT8 and not given and not model.quantized


def _dynamic(config: BuildConfig) -> BuildConfig:
    return dataclasses.replace(config, target=dataclasses.replace(config.target, dynamic=True))


def _worst_db(session: Session, inputs: Inputs, reference: Reference) -> float | None:
    """Returns the signal-to-noise ratio of an engine's worst output, or part of one, in dB."""
    outputs = [session.run(feed) for feed in inputs.feeds]
    worst = worst_noise(noise_of_outputs(reference.outputs, outputs, reference.forms))
    return None if worst is None else worst.sqnr_db


def _share_of_tokens(model: LoadedModel) -> float:
    """Returns the share of the network's multiply-accumulates in recurrent layers and in products of tokens."""
    names = {node.name for node in model.graph.graph if node.op_type in RECURRENT or _reads_tokens(node)}
    macs = sum(layer.macs for layer in model.stats.layers if layer.name in names)
    return macs / max(model.stats.macs, 1)


def _reads_tokens(node: ir.Node) -> bool:
    """Whether a node multiplies each row of sequences by one matrix of weights."""
    if node.op_type != "MatMul" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    rows, weights = node.inputs[0].shape, node.inputs[1].const_value
    return rows is not None and len(rows) >= 3 and weights is not None and len(weights.shape) == 2


def _kept(chosen: Chosen, info: ActivationsInfo, progress: Progress) -> Chosen:
    progress.note(str(info))
    folder, manifest = chosen.engine
    return chosen._replace(engine=BuiltEngine(folder, msgspec.structs.replace(manifest, activations=info)))


def _moved(engine: BuiltEngine, over: BuiltEngine) -> BuiltEngine:
    """Moves an engine into the place of another, whose files are deleted."""
    for file in _files(over.folder):
        file.unlink()
    for file in _files(engine.folder):
        file.rename(over.folder / file.name)
    return BuiltEngine(over.folder, engine.manifest)


def _files(folder: Path) -> Sequence[Path]:
    return [file for file in folder.iterdir() if file.is_file()]
