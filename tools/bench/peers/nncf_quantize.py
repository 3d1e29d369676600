"""Quantizes a float ONNX graph with NNCF; prints the time as JSON. Needs an environment with NNCF.

Called as ``python nncf_quantize.py GRAPH FEEDS OUTPUT IMAGES [--float-heads] [--transformer]``: ``FEEDS`` is a folder
of ``.npy`` or ``.npz`` files; the suffix of ``OUTPUT`` chooses NNCF's backend, ``.onnx`` or ``.xml`` (OpenVINO).
``--transformer`` gives it that type of model; all other settings are its defaults.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

# NNCF and OpenVINO send usage data with this package; both work without it.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import nncf  # noqa: E402
import numpy as np  # noqa: E402

PRODUCTS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"}


def main(graph: Path, feeds: Path, output: Path, images: int, options: set[str]) -> None:
    files = sorted(feeds.glob("*.np[yz]"))[:images]
    if output.suffix == ".xml":
        import openvino as ov

        model = ov.Core().read_model(graph)
        heads = _last_products([result.input_value(0).get_node() for result in model.get_results()])
        name = model.inputs[0].get_any_name()
    else:
        import onnx

        model = onnx.load(graph)
        made = {out: node.name for node in model.graph.node for out in node.output}
        heads = [made[out.name] for out in model.graph.output]
        name = model.graph.input[0].name
    ignored = nncf.IgnoredScope(names=heads) if "--float-heads" in options else None
    started = time.perf_counter()
    dataset = nncf.Dataset(files, lambda file: dict(np.load(file)) if file.suffix == ".npz" else {name: np.load(file)})
    kind = nncf.ModelType.TRANSFORMER if "--transformer" in options else None
    quantized = nncf.quantize(model, dataset, subset_size=len(files), ignored_scope=ignored, model_type=kind)
    seconds = time.perf_counter() - started
    if output.suffix == ".xml":
        ov.save_model(quantized, output, compress_to_fp16=False)
    else:
        onnx.save(quantized, output)
    print(json.dumps({"seconds": seconds, "version": metadata.version("nncf")}))


def _last_products(waiting: list[Any]) -> list[str]:
    """Returns the products behind which no other is, on the way to a result; a bias is a separate operator."""
    found, seen = [], set()
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() in PRODUCTS:
            found.append(str(name))
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), set(sys.argv[5:]))
