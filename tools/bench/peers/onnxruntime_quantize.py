"""Quantizes a float ONNX graph with ONNX Runtime's ``quantize_static``; prints the time as JSON.

Called as ``python onnxruntime_quantize.py GRAPH FEEDS OUTPUT IMAGES [--float-heads]``: uint8 activations by
minmax, int8 weights by channel, Q/DQ format, as its documentation advises for x86.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static


class Reader(CalibrationDataReader):
    def __init__(self, name: str, files: list[Path]) -> None:
        self._feeds = ({name: np.load(file)} for file in files)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def main(graph: Path, feeds: Path, output: Path, images: int, float_heads: bool) -> None:
    structure = onnx.load(graph, load_external_data=False).graph
    made = {out: node.name for node in structure.node for out in node.output}
    files = sorted(feeds.glob("*.npy"))[:images]
    started = time.perf_counter()
    quantize_static(
        graph,
        output,
        Reader(structure.input[0].name, files),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=[made[out.name] for out in structure.output] if float_heads else [],
    )
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "version": metadata.version("onnxruntime")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), "--float-heads" in sys.argv)
