"""Quantizes a float ONNX graph with NVIDIA ModelOpt; prints the time as JSON. Needs an environment with ModelOpt.

Called as ``python modelopt_quantize.py GRAPH FEEDS OUTPUT IMAGES [entropy|max]``. All other settings are its defaults.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from modelopt.onnx.quantization import quantize


def main(graph: Path, feeds: Path, output: Path, images: int, method: str) -> None:
    files = sorted(feeds.glob("*.npy"))[:images]
    name = onnx.load(graph, load_external_data=False).graph.input[0].name
    started = time.perf_counter()
    quantize(
        onnx_path=str(graph),
        quantize_mode="int8",
        calibration_data={name: np.concatenate([np.load(file) for file in files])},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(output),
    )
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "version": metadata.version("nvidia-modelopt")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), (sys.argv[5:] or ["entropy"])[0])
