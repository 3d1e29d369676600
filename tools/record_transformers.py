"""Records detectors of the package transformers, for tests that run without it.

Run where the package is installed: ``python -m tools.record_transformers``. Of each model, in a small configuration, it
keeps the exported graph without its weights, and what the package's own postprocessing makes of raw outputs, which are
made from a seed.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

__all__ = ["MODELS", "RESULTS", "STRUCTURES", "export", "filled", "made_outputs"]

STRUCTURES = Path(__file__).parents[1] / "tests" / "pipeline" / "recorded"
RESULTS = Path(__file__).parents[1] / "tests" / "runtime" / "recorded" / "transformers.npz"
MODELS = {"detr": "detr", "yolos": "yolos", "rt_detr": "rt_detr", "rt_detr_v2": "rt_detr", "d_fine": "rt_detr"}
"""Modules of the models, with the module of the image processor whose postprocessing they use."""
TRACED = ("rt_detr_v2", "d_fine")
"""Models that torch.export's ONNX exporter refuses: these are traced."""
SIDE, QUERIES, CLASSES = 320, 60, 20
PICTURE = (501, 377)
"""Width and height in px of the picture that the recorded boxes are in."""
THRESHOLD = 0.3
LARGEST_KEPT = 64
"""Number of elements of the largest float constant that is kept: others are weights."""


def made_outputs(name: str) -> dict[str, np.ndarray]:
    """Makes the raw outputs of a model from its name: ``logits`` and ``pred_boxes`` of one image.

    Only `Generator.random` is used, whose numbers do not depend on the version of numpy.
    """
    random = np.random.default_rng(zlib.crc32(name.encode()))
    slots = CLASSES + (name in ("detr", "yolos"))
    logits = random.random((QUERIES, slots)) * 4 - 6
    sure = (random.random(QUERIES) * slots).astype(int)
    logits[np.arange(QUERIES), sure] += random.random(QUERIES) * 9
    boxes = np.concatenate([random.random((QUERIES, 2)), 0.02 + 0.4 * random.random((QUERIES, 2))], axis=1)
    return {"logits": logits[None].astype(np.float32), "pred_boxes": boxes[None].astype(np.float32)}


def filled(structure: Path) -> onnx.ModelProto:
    """Returns a recorded graph with weights from a seed."""
    model = onnx.load_from_string(gzip.decompress(structure.read_bytes()))
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data") and not len(tensor.float_data) and np.prod(tensor.dims):
            numbers = random.random(tuple(tensor.dims))
            # Vectors may be variances, which are positive.
            array = (
                0.5 + numbers if len(tensor.dims) == 1 else (numbers * 2 - 1) * np.sqrt(3 / np.prod(tensor.dims[1:]))
            )
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return model


def export(name: str, path: Path) -> None:
    """Exports a model with random weights to an ONNX file."""
    import torch

    class Outputs(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = self.model(pixel_values=x)
            return found.logits, found.pred_boxes

    torch.manual_seed(0)
    torch.onnx.export(
        Outputs(_model(name)).eval(),
        (torch.rand(1, 3, SIDE, SIDE),),
        path,
        input_names=["pixel_values"],
        output_names=["logits", "pred_boxes"],
        **({"dynamo": False, "opset_version": 17} if name in TRACED else {"dynamo": True, "external_data": False}),
    )


def _model(name: str) -> Any:
    import transformers as package

    common = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_labels": CLASSES}
    common |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_layers": 2, "num_queries": QUERIES}
    scales = {"out_features": ["stage2", "stage3", "stage4"]}
    widths = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128]}
    if name == "yolos":
        small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        sizes = {"image_size": [SIDE, SIDE], "num_detection_tokens": QUERIES, "num_labels": CLASSES}
        return package.YolosForObjectDetection(package.YolosConfig(**small, **sizes, use_mid_position_embeddings=False))
    if name == "detr":
        backbone = package.ResNetConfig(**widths, depths=[1] * 4, layer_type="basic", out_features=["stage4"])
        own = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "encoder_layers": 1}
        return package.DetrForObjectDetection(package.DetrConfig(**own, backbone_config=backbone, **common))
    common |= {"encoder_hidden_dim": 64, "decoder_in_channels": [64] * 3, "anchor_image_size": None}
    common |= {"feat_strides": [8, 16, 32]}
    if name == "d_fine":
        stages = {"stage_in_channels": [16, 32, 48, 64], "stage_mid_channels": [16, 16, 16, 32]}
        stages |= {"stage_out_channels": [32, 48, 64, 96], "stage_num_blocks": [1] * 4, "stem_channels": [3, 16, 16]}
        backbone = package.HGNetV2Config(
            **stages, **scales, hidden_sizes=[32, 48, 64, 96], depths=[1] * 4, embedding_size=16,
            use_learnable_affine_block=True,
        )  # fmt: skip
        config = package.DFineConfig(backbone_config=backbone, encoder_in_channels=[48, 64, 96], **common)
        return package.DFineForObjectDetection(config)
    backbone = package.RTDetrResNetConfig(**widths, **scales, depths=[2] * 4, layer_type="bottleneck")
    kind = "RTDetrV2" if name == "rt_detr_v2" else "RTDetr"
    config = getattr(package, f"{kind}Config")(backbone_config=backbone, encoder_in_channels=[64, 96, 128], **common)
    return getattr(package, f"{kind}ForObjectDetection")(config)


def _without_weights(path: Path) -> bytes:
    model = onnx.load(path)
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > LARGEST_KEPT:
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=array.shape))
    return gzip.compress(model.SerializeToString(), 9, mtime=0)


def _processed(name: str) -> dict[str, np.ndarray]:
    """Runs the package's own postprocessing, which needs no image processor of its own."""
    import torch

    kind = {"detr": "Detr", "yolos": "Yolos", "rt_detr": "RTDetr"}[MODELS[name]]
    module = import_module(f"transformers.models.{MODELS[name]}.image_processing_{MODELS[name]}")
    raw = SimpleNamespace(**{key: torch.from_numpy(array) for key, array in made_outputs(name).items()})
    processor = getattr(module, f"{kind}ImageProcessor")
    (found,) = processor.post_process_object_detection(
        None, raw, threshold=THRESHOLD, target_sizes=[(PICTURE[1], PICTURE[0])]
    )
    order = found["scores"].double().argsort(descending=True, stable=True)
    return {key: found[key][order].numpy() for key in ("scores", "labels", "boxes")}


def main() -> None:
    """Writes the structures and the results of all models."""
    STRUCTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            path = Path(folder) / f"{name}.onnx"
            export(name, path)
            (STRUCTURES / f"{name}.onnx.gz").write_bytes(_without_weights(path))
            print(f"{name}: {(STRUCTURES / f'{name}.onnx.gz').stat().st_size / 1000:.0f} kB")
    arrays = {f"{name}/{key}": array for name in MODELS for key, array in _processed(name).items()}
    np.savez_compressed(RESULTS, **arrays)


if __name__ == "__main__":
    main()
