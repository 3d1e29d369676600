"""Quantizes a float ONNX graph with ONNX Runtime's ``quantize_static``; prints the time as JSON.

Called as ``python onnxruntime_quantize.py GRAPH FEEDS OUTPUT IMAGES [--float-heads] [--preprocess] [--dynamic]``:
uint8 activations by minmax, int8 weights by channel, Q/DQ format, as its documentation advises for x86.
``--preprocess`` calls its ``quant_pre_process`` first; ``--dynamic`` calls ``quantize_dynamic``.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)

LEAST_OPSET = 13
"""The first in which weights have a scale a channel, as the documentation says."""

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


class Reader(CalibrationDataReader):
    def __init__(self, name: str, files: list[Path]) -> None:
        self._feeds = (dict(np.load(file)) if file.suffix == ".npz" else {name: np.load(file)} for file in files)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def main(graph: Path, feeds: Path, output: Path, images: int, options: set[str]) -> None:
    files = sorted(feeds.glob("*.np[yz]"))[:images]
    started = time.perf_counter()
    if "--preprocess" in options:
        prepared = output.with_suffix(".prepared.onnx")
        model = onnx.load(graph)
        opset = next(each.version for each in model.opset_import if not each.domain)
        if opset < LEAST_OPSET:
            onnx.save(onnx.version_converter.convert_version(model, LEAST_OPSET), prepared)
            graph = prepared
        # Its symbolic shape inference refuses many graphs; ONNX's own does not.
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        graph = prepared
    if "--dynamic" in options:
        quantize_dynamic(graph, output, per_channel=True, weight_type=QuantType.QInt8)
    else:
        structure = onnx.load(graph, load_external_data=False).graph
        quantize_static(
            graph,
            output,
            Reader(structure.input[0].name, files),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=last_products(structure) if "--float-heads" in options else [],
        )
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "version": metadata.version("onnxruntime")}))


def last_products(graph: onnx.GraphProto) -> list[str]:
    """Returns the products behind which no other is, on the way to an output."""
    made = {out: node for node in graph.node for out in node.output}
    found, seen, waiting = [], set(), [out.name for out in graph.output]
    while waiting:
        node = made.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.op_type in PRODUCTS:
            found.append(node.name)
        else:
            waiting += node.input
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), set(sys.argv[5:]))
