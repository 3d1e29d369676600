"""Which layers stay in float: those of the recipe, those of the user, and heads that are detected."""

from __future__ import annotations

from edgekit.config import CalibrationConfig
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.quantize.plan import QuantPolicy
from edgekit.specs import Precision

__all__ = ["quant_policy"]


def quant_policy(model: LoadedModel, config: CalibrationConfig, precision: Precision) -> QuantPolicy:
    """Returns the layers that stay in float. For INT8, a recipe names its heads; in other models they are detected."""
    if precision is not Precision.INT8 or config.quantize_heads:
        return QuantPolicy(config.keep_float)
    if model.policy is None:
        return QuantPolicy(config.keep_float, keep_heads=True, head_outputs=model.head_outputs)
    return QuantPolicy((*model.policy.keep_float, *config.keep_float))
