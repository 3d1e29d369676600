"""Compares the outputs of a quantized model with those of its float original: signal-to-noise ratio in decibels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.arguments import argument
from edgekit.errors import AccuracyError
from edgekit.progress import Progress
from edgekit.specs import TensorSpec

__all__ = ["noise_db", "require_signal", "signal_to_noise_db"]

LEEWAY_DB = 10.0
"""How much lower the SNR may be at the min or max shapes when it is near 0 dB at the opt shapes."""

Arrays = Mapping[str, np.ndarray]


def signal_to_noise_db(reference: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float | None:
    """Computes the energy of the reference divided by that of the difference, over all arrays, in decibels.

    Returns:
        None if there is no noise or no signal, or if the two cannot be compared: data-dependent shapes, or values
        that are not finite.
    """
    signal = noise = 0.0
    for a, b in zip(reference, got, strict=True):
        comparable = a.shape == b.shape and a.dtype.kind == b.dtype.kind == "f"
        if not comparable or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return None
        wide = a.astype(np.float64)
        signal += float(np.square(wide).sum())
        noise += float(np.square(wide - b).sum())
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def noise_db(reference: Sequence[Arrays], got: Sequence[Arrays]) -> dict[str, float]:
    """Computes `signal_to_noise_db` for each output, by name; leaves out outputs that have none.

    Args:
        reference: outputs by name, for each input.
        got: the same from another engine.
    """
    found = {}
    for name in reference[0] if reference else ():
        ratio = signal_to_noise_db([outputs[name] for outputs in reference], [outputs[name] for outputs in got])
        if ratio is not None:
            found[name] = ratio
    return found


def require_signal(
    found: Sequence[Mapping[str, float]], min_max: Sequence[Sequence[TensorSpec]], target: str, progress: Progress
) -> None:
    """Raises `AccuracyError` if the SNR of an output is below 0 dB: zeros would be closer to FP32.

    If an output is near 0 dB at the opt shapes already (a detector that finds nothing in its calibration images),
    the min and max shapes get a note, and are an error only if they are much worse.

    Args:
        found: SNR of each output by name, first at the opt shapes, then at the min and max shapes.
        min_max: the inputs at the min and max shapes.
        target: name of the target, for messages.
        progress: receives the notes.

    Raises:
        AccuracyError: the message names the worst output.
    """
    usual_db, *min_max_db = found
    _refuse_noise(usual_db, target)
    floor_db = min(0.0, min(usual_db.values(), default=0.0) - LEEWAY_DB)
    for specs, sqnr_db in zip(min_max, min_max_db, strict=False):
        given = f" given {'; '.join(map(str, specs))}"
        _refuse_noise(sqnr_db, target, given, floor_db)
        worst = min(sqnr_db, key=lambda name: sqnr_db[name], default="")
        if worst and sqnr_db[worst] < 0.0:
            progress.note(
                f"INT8's signal to noise{given}: {sqnr_db[worst]:.1f} dB at '{worst}', which is lost in noise"
            )


def _refuse_noise(sqnr_db: Mapping[str, float], target: str, given: str = "", floor_db: float = 0.0) -> None:
    worst = min(sqnr_db, key=lambda name: sqnr_db[name], default="")
    if worst and sqnr_db[worst] < floor_db:
        raise AccuracyError(
            f"output '{worst}' of the INT8 engine for {target}{given} is lost in noise: expected a signal to noise "
            f"of more than {floor_db:.0f} dB against FP32, got {sqnr_db[worst]:.1f} dB",
            hint=f"calibrate on inputs of your own task ({argument('calib', like='DIR')}), try another "
            f"{argument('calib_method')}, "
            f"or keep sensitive layers in float ({argument('keep_float', like='PATTERN')})",
        )
