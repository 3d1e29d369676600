from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.errors import AccuracyError, ExportError, GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.export.check import compare_with_module
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.file import input_specs, output_specs
from edgekit.graph.passes import optimize
from edgekit.models.yolov3 import yolov3_tiny
from edgekit.specs import TensorSpec

IMAGES = TensorSpec("images", "float32", (1, 3, 64, 64))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.act(self.norm(self.conv(x)))


class Net(nn.Module):
    """Residuals, one activation used twice, an asymmetric pool, a nest of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.act = nn.LeakyReLU(0.1)
        self.stages = nn.Sequential(Block(8), Block(8))
        self.head = nn.ConvTranspose2d(8, 4, 2, 2)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        x = self.stages(self.act(self.stem(x)))
        pooled = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, 1)
        return {"a": self.head(self.act(pooled)), "b": [pooled.mean((2, 3))]}


class TwoInputs(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left @ right.to(left.dtype)


def test_names_lead_back_to_the_module():
    graph = optimize(graph_from_module(Net(), [IMAGES], ["boxes", "scores"]))
    names = {node.name: node.op_type for node in graph.graph}
    assert names["stem"] == "Conv"
    assert names["stages.0.conv"] == "Conv"
    assert names["stages.1.add"] == "Add"
    assert (names["act"], names["act_1"]) == ("LeakyRelu", "LeakyRelu")
    assert names["head"] == "ConvTranspose"
    assert "stages.0.conv.bias" in graph.graph.initializers
    assert [spec.name for spec in output_specs(graph)] == ["boxes", "scores"]
    assert "Pad" not in names.values()


def test_names_are_unique_and_the_same_in_every_export():
    graphs = [graph_from_module(Net(), [IMAGES]) for _ in range(2)]
    first, second = (
        [node.name for node in graph.graph] + [value.name for node in graph.graph for value in node.outputs]
        for graph in graphs
    )
    assert first == second
    for names in ([node.name for node in graphs[0].graph], first[len(list(graphs[0].graph)) :]):
        assert len(set(names)) == len(names)


def test_graph_says_nothing_of_the_machine_it_was_made_on():
    graph = graph_from_module(Net(), [IMAGES])
    assert b"File" not in ir.to_proto(graph).SerializeToString()


def test_exported_net_agrees_with_its_module():
    module = Net()
    check = compare_with_module(optimize(graph_from_module(module, [IMAGES], ["a", "b"])), module, [IMAGES])
    assert [output.name for output in check.outputs] == ["a", "b"]
    assert all(output.relative_error < 1e-5 for output in check.outputs)


def test_yolov3_tiny_agrees_and_has_no_norm_and_no_pad_left():
    module = yolov3_tiny(classes=3)
    graph = optimize(graph_from_module(module, [IMAGES], ["head2", "head4"]))
    compare_with_module(graph, module, [IMAGES])
    assert {node.op_type for node in graph.graph} == {"Conv", "LeakyRelu", "MaxPool", "Resize", "Concat"}
    assert [spec.shape for spec in output_specs(graph)] == [(1, 24, 2, 2), (1, 24, 4, 4)]


def test_layer_without_bias_gets_none_and_a_bias_of_zeros_stays():
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 1))
    nn.init.zeros_(module[1].bias)
    graph = optimize(graph_from_module(module, [IMAGES]))
    assert [[value.name for value in node.inputs[1:]] for node in graph.graph] == [["0.weight"], ["1.weight", "1.bias"]]


def test_modules_mode_is_left_as_it_was():
    module = Net().train()
    module.stages.eval()
    graph_from_module(module, [IMAGES])
    assert module.training and module.stem.training and not module.stages[0].training


def test_several_inputs_of_different_types():
    specs = [TensorSpec("left", "float32", (2, 3)), TensorSpec("right", "int64", (3, 4))]
    graph = graph_from_module(TwoInputs(), specs, ["product"])
    assert input_specs(graph) == tuple(specs)
    compare_with_module(optimize(graph), TwoInputs(), specs)


def test_named_dimensions_stay_dynamic():
    spec = TensorSpec("images", "float32", ("batch", 3, "height", 64))
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    graph = optimize(graph_from_module(module, [spec], ["y"]))
    assert input_specs(graph) == (spec,)
    assert output_specs(graph)[0].shape == ("batch", 4, "height", 64)
    images = np.random.default_rng(0).random((3, 3, 10, 64), np.float32)
    expected = module(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(Evaluator(graph).run({"images": images})["y"], expected, rtol=1e-4, atol=1e-5)


def test_export_is_silent(capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        optimize(graph_from_module(Net(), [IMAGES]))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else x + 1


def test_operator_without_counterpart_is_named_with_its_module(capfd):
    with pytest.raises(ExportError, match=r"operator \S*bessel_j0\S* of module '1\.0'"):
        graph_from_module(nn.Sequential(nn.ReLU(), nn.Sequential(Bessel())), [IMAGES])
    assert capfd.readouterr() == ("", "")


def test_module_that_cannot_be_traced_is_named(capfd):
    with pytest.raises(ExportError, match=r"Sequential cannot be traced at module '1\.0'"):
        graph_from_module(nn.Sequential(nn.ReLU(), nn.Sequential(Branch())), [IMAGES])
    assert capfd.readouterr() == ("", "")


def test_wrong_number_of_outputs_is_refused():
    with pytest.raises(ExportError, match=r"expected a module that returns 1 tensors \(only\), got 2"):
        graph_from_module(Net(), [IMAGES], ["only"])


def test_unknown_element_type_is_refused():
    with pytest.raises(ExportError, match="input 'x'.*got float33"):
        graph_from_module(nn.ReLU(), [TensorSpec("x", "float33", (1,))])


def test_changed_weight_is_found_with_the_first_value_that_is_off():
    module = Net()
    graph = optimize(graph_from_module(module, [IMAGES], ["a", "b"]))
    weight = graph.graph.initializers["stages.1.conv.weight"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1.5, name=weight.name)
    with pytest.raises(
        AccuracyError, match=r"output '[ab]': .*at most 0.0001.*first value that differs is 'stages.1.norm'"
    ):
        compare_with_module(graph, module, [IMAGES])


def test_graph_of_another_module_is_refused():
    graph = graph_from_module(nn.Conv2d(3, 4, 1), [IMAGES])
    with pytest.raises(ExportError, match=r"expected shape \(1, 5, 64, 64\).*got \(1, 4, 64, 64\)"):
        compare_with_module(graph, nn.Conv2d(3, 5, 1), [IMAGES])


def test_evaluator_names_the_node_that_fails():
    graph = graph_from_module(nn.Sequential(nn.Linear(4, 3)), [TensorSpec("x", "float32", ("n", 4))])
    with pytest.raises(GraphError, match="x"):
        Evaluator(graph).run({"x": np.zeros((2, 5), np.float32)})


def test_evaluator_gives_intermediate_values_and_leaves_the_graph_alone():
    module = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", (2, 40))], ["y"]))
    x = torch.rand(2, 40)
    got = Evaluator(graph, also=["1"]).run({"x": x.numpy()})
    np.testing.assert_allclose(got["1"], module[:2](x).detach().numpy(), rtol=1e-4, atol=1e-6)
    assert [value.name for value in graph.graph.outputs] == ["y"]
    assert all(value.const_value.numpy().size for value in graph.graph.initializers.values())


def test_a_torchvision_that_cannot_be_imported_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # as it is beside a PyTorch without CUDA; the exporter looks whether there is one
    (tmp_path / "torchvision").mkdir()
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    graph = graph_from_module(Net(), [IMAGES], ["boxes", "scores"])
    assert [value.name for value in graph.graph.outputs] == ["boxes", "scores"]
    with pytest.raises(RuntimeError, match="nms does not exist"):
        import torchvision  # noqa: F401
