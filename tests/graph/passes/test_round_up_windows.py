from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.passes import optimize

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 2, {size}, 8] x) => (float[a, b, c, d] y) {{
    m = MaxPool <kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}], ceil_mode = 1,
                 pads = [{pad}, {pad}, {pad}, {pad}]> (x)
    y = Relu (m) }}"""


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"),
    [each for each in itertools.product((6, 7, 8), (2, 3), (2, 3), (0, 1)) if each[3] * 2 <= each[1]],
)
def test_max_pooling_rounds_up_as_pytorch_does(size: int, kernel: int, stride: int, pad: int) -> None:
    model = onnx.parser.parse_model(TEXT.format(size=size, kernel=kernel, stride=stride, pad=pad))
    graph = optimize(ir.from_proto(model))
    x = np.random.default_rng(0).standard_normal((1, 2, size, 8)).astype(np.float32)
    pool = torch.nn.MaxPool2d(kernel, stride, pad, ceil_mode=True)
    expected = torch.relu(pool(torch.from_numpy(x))).numpy()
    got = Evaluator(graph).run({"x": x})["y"]
    np.testing.assert_array_equal(got, expected)
    assert graph.graph.outputs[0].shape == expected.shape
