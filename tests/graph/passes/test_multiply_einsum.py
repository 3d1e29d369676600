"""Einsum as a matrix product; numpy's einsum has the right values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.passes import InferShapes, MultiplyEinsum, optimize

RANDOM = np.random.default_rng(4)


def model(
    equation: str,
    shapes: Sequence[Sequence[int | str]],
    weights: np.ndarray | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Returns an Einsum of the inputs a and b, or of a and weights."""
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in zip("ab", shapes, strict=False)]
    names = ["a", "b"][: len(shapes)] + (["w"] if weights is not None else [])
    held = [] if weights is None else [numpy_helper.from_array(weights, "w")]
    output = helper.make_tensor_value_info("y", kind, None)
    node = helper.make_node("Einsum", names, ["y"], equation=equation, name="product")
    graph = helper.make_graph([node], "g", inputs, [output], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def operators(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


def check(graph: ir.Model, equation: str, arrays: Sequence[np.ndarray]) -> None:
    got = Evaluator(graph).run(dict(zip("ab", arrays, strict=False)))["y"]
    expected = np.einsum(equation, *arrays)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def replaced(equation: str, *shapes: Sequence[int | str], sizes: Sequence[Sequence[int]] = ()) -> list[str]:
    """Returns the operators that an Einsum becomes, whose results are checked at the sizes."""
    graph = ir.from_proto(model(equation, shapes))
    InferShapes()(graph)
    MultiplyEinsum()(graph)
    InferShapes()(graph)
    found = [name for name in operators(graph) if name != "Constant"]
    check(graph, equation, [RANDOM.standard_normal(shape).astype(np.float32) for shape in sizes or shapes])
    return found


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)], ["MatMul"]),
        ("ij,jk", [(3, 4), (4, 5)], ["MatMul"]),
        ("bhqk,bhkd->bhqd", [(2, 3, 4, 5), (2, 3, 5, 6)], ["MatMul"]),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 6), (2, 3, 5, 6)], ["Transpose", "MatMul"]),
        ("bqhd,bkhd->bhqk", [(2, 4, 3, 6), (2, 5, 3, 6)], ["Transpose", "Transpose", "MatMul"]),
        ("...d,de->...e", [(2, 3, 4), (4, 5)], ["MatMul"]),
        ("bsd,dhk->bshk", [(2, 3, 4), (4, 5, 6)], ["Reshape", "MatMul", "Reshape"]),
        ("bshk,hkd->bsd", [(2, 3, 5, 6), (5, 6, 4)], ["Reshape", "Reshape", "MatMul"]),
        ("i,i->", [(4,), (4,)], ["Unsqueeze", "Unsqueeze", "MatMul", "Squeeze"]),
        ("bi,bi->b", [(3, 4), (3, 4)], ["Unsqueeze", "Unsqueeze", "MatMul", "Squeeze"]),
        ("ij,jk->k", [(3, 4), (4, 5)], ["ReduceSum", "Unsqueeze", "MatMul", "Squeeze"]),
        ("...ij,...jk->...ik", [(1, 3, 4), (2, 4, 5)], ["MatMul"]),
    ],
)
def test_a_product_becomes_one(equation: str, shapes: list[tuple[int, ...]], expected: list[str]) -> None:
    assert replaced(equation, *shapes) == expected


@pytest.mark.parametrize(
    ("equation", "shapes", "sizes"),
    [
        ("bsd,dhk->bshk", [("b", "s", "d"), ("d", "h", "k")], [(2, 3, 4), (4, 5, 6)]),
        ("bqhd,bkhd->bhqk", [("b", "q", 3, 6), ("b", "k", 3, 6)], [(2, 4, 3, 6), (2, 5, 3, 6)]),
        ("bxyc,bcn->bxyn", [("b", "x", "y", 4), ("b", 4, "n")], [(2, 3, 5, 4), (2, 4, 6)]),
        ("...ab,abn->...n", [("b", "s", "a", "b2"), ("a", "b2", "n")], [(2, 3, 4, 5), (4, 5, 6)]),
    ],
)
def test_sizes_may_be_dynamic(equation: str, shapes: list[tuple[int | str, ...]], sizes: list[tuple[int, ...]]) -> None:
    assert "MatMul" in replaced(equation, *shapes, sizes=sizes)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ii,ij->j", [(3, 3), (3, 4)]),
        ("i,j->ij", [(3,), (4,)]),
        ("ij,ij->ij", [(3, 4), (3, 4)]),
        ("ij->j", [(3, 4)]),
        ("ij->ji", [(3, 4)]),
        ("ij,kl->", [(3, 4), (2, 5)]),
    ],
)
def test_what_is_no_product_stays(equation: str, shapes: list[tuple[int, ...]]) -> None:
    assert replaced(equation, *shapes) == ["Einsum"]


def test_a_sum_over_one_element_and_more_stays() -> None:
    """ONNX Runtime repeats the element; numpy does not take it."""
    graph = ir.from_proto(model("ij,jk->ik", [(3, 1), (4, 5)]))
    InferShapes()(graph)
    MultiplyEinsum()(graph)
    assert operators(graph) == ["Einsum"]


def test_integers_stay() -> None:
    graph = ir.from_proto(model("ij,jk->ik", [(3, 4), (4, 5)], kind=TensorProto.INT32))
    InferShapes()(graph)
    assert not MultiplyEinsum()(graph).modified


@pytest.mark.parametrize("equation", ["dhk,bsd->bshk", "bsd,dhk->bshk"])
def test_a_constant_is_the_second_factor_and_folded(equation: str) -> None:
    weights = RANDOM.standard_normal((4, 5, 6)).astype(np.float32)
    made = model("bsd,dhk->bshk", [("b", "s", 4)], weights)
    if equation.startswith("d"):
        node = made.graph.node[0]
        node.input[:] = ["w", "a"]
        node.attribute[0].s = equation.encode()
    graph = optimize(ir.from_proto(made))
    assert operators(graph) == ["MatMul", "Reshape"]
    product = graph.graph[0]
    assert product.name == "product" and product.inputs[1] is not None
    assert product.inputs[1].shape is not None and product.inputs[1].shape.numpy() == (4, 30)
    data = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
    got = Evaluator(graph).run({"a": data})["y"]
    np.testing.assert_allclose(got, np.einsum("bsd,dhk->bshk", data, weights), rtol=1e-4, atol=1e-5)


def test_random_equations_have_the_same_results() -> None:
    products = 0
    for _ in range(150):
        size = {letter: int(RANDOM.integers(2, 5)) for letter in "abcde"}
        left, right = (
            "".join(RANDOM.permutation([letter for letter in size if RANDOM.random() < 0.6])) for _ in range(2)
        )
        either = sorted({*left, *right})
        kept = "".join(RANDOM.permutation([letter for letter in either if RANDOM.random() < 0.6]))
        shapes = [[size[letter] for letter in term] for term in (left, right)]
        dynamic = [
            [each if RANDOM.random() < 0.5 else f"{side}{axis}" for axis, each in enumerate(shape)]
            for side, shape in zip("lr", shapes, strict=True)
        ]
        products += "MatMul" in replaced(f"{left},{right}->{kept}", *dynamic, sizes=shapes)
    assert products > 30


def test_an_einsum_with_weights_runs_on_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    weights = (RANDOM.standard_normal((32, 4, 16)) / 6).astype(np.float32)
    onnx.save(model("bsd,dhk->bshk", [(1, 20, 32)], weights), tmp_path / "m.onnx")
    (tmp_path / "arrays").mkdir()
    for index in range(4):
        np.save(tmp_path / "arrays" / f"{index}.npy", RANDOM.standard_normal((1, 20, 32)).astype(np.float32))
    place = edgekit.build(
        tmp_path / "m.onnx", target="cpu", calib=tmp_path / "arrays", output=tmp_path / "out", profile=False
    )
    assert read_manifest(place).layers == {"int8": 1}
