from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.measure.inspection import Inspection, LayerRow
from edgekit.report.drawing.tree import Block, Wiring, block_tree
from edgekit.specs import TensorSpec

LayerText = tuple[str, str, str]


def inspection(*layers: LayerText, outputs: str = "y", modules: dict[str, str] | None = None) -> Inspection:
    """Makes an inspection of layers (name, operator, reads); each writes a value of its name; ``x`` is the input."""
    rows = tuple(
        LayerRow(
            name=name,
            operator=operator,
            output_shape=(1, 4, 8, 8),
            precision="float32",
            parameters=10 if operator == "Conv" else 0,
            macs=100 if operator == "Conv" else 0,
            reads=tuple(reads.split()),
            writes=(name,),
            module=(modules or {}).get(name, ""),
        )
        for name, operator, reads in layers
    )
    return Inspection(
        name="net",
        parameters=sum(row.parameters or 0 for row in rows),
        macs=sum(row.macs or 0 for row in rows),
        weight_bytes=0,
        activation_bytes=0,
        intensity=None,
        assumed_sizes={},
        precision_from="graph",
        inputs=(TensorSpec("x", "float32", (1, 3, 8, 8)),),
        outputs=tuple(TensorSpec(name, "float32", (1, 4, 8, 8)) for name in outputs.split()),
        layers=rows,
    )


def tree(found: Inspection) -> tuple[Block, ...]:
    return block_tree(Wiring.of(found))


def labels(blocks: tuple[Block, ...]) -> list[str]:
    return [block.label for block in blocks]


def residuals(count: int, prefix: str = "stage.block") -> list[LayerText]:
    layers: list[LayerText] = [("stem.conv", "Conv", "x"), ("stem.act", "Relu", "stem.conv")]
    before = "stem.act"
    for i in range(1, count + 1):
        name = f"{prefix}{i}"
        layers += [
            (f"{name}.conv", "Conv", before),
            (f"{name}.act", "Relu", f"{name}.conv"),
            (f"{name}.add", "Add", f"{name}.act {before}"),
        ]
        before = f"{name}.add"
    return [*layers, ("y", "Conv", before)]


def test_layers_are_grouped_by_the_modules_in_their_names() -> None:
    stem, stage, head = tree(inspection(*residuals(2)))
    assert (stem.label, stage.label, head.label) == ("stem", "stage", "y")
    assert labels(stage.parts) == ["block1", "block2"]
    assert labels(stage.parts[1].parts) == ["conv", "add"]
    assert stage.parts[1].path == "stage.block2"


def test_repeated_blocks_are_merged_with_a_count() -> None:
    stage = tree(inspection(*residuals(8)))[1]
    assert (stage.copies, len(stage.parts)) == (8, 8)
    assert labels(stage.parts)[:2] == ["block1", "block2"]


def test_repeated_blocks_among_others_are_called_after_the_first_and_the_last() -> None:
    blocks = tree(inspection(*residuals(12, prefix="block")))
    assert labels(blocks) == ["stem", "block1 … 12", "y"]
    assert blocks[1].copies == 12


def test_blocks_in_parallel_are_not_folded() -> None:
    branches = [
        (f"branch{i}.{part}", operator, f"branch{i}.{before}" if before else "x")
        for i in range(4)
        for part, operator, before in (("reduce", "Conv", ""), ("pool", "MaxPool", "reduce"))
    ]
    cat = ("y", "Concat", " ".join(f"branch{i}.pool" for i in range(4)))
    assert labels(tree(inspection(*branches, cat))) == ["branch0", "branch1", "branch2", "branch3", "y"]


def test_activations_are_drawn_with_what_they_follow() -> None:
    silu = inspection(("conv", "Conv", "x"), ("sigmoid", "Sigmoid", "conv"), ("y", "Mul", "conv sigmoid"))
    assert [block.rows for block in tree(silu)] == [(0, 1, 2)]


def test_a_value_that_another_layer_reads_ends_a_box() -> None:
    found = inspection(("conv", "Conv", "x"), ("act", "Relu", "conv"), ("y", "Concat", "act conv"))
    assert [block.rows for block in tree(found)] == [(0,), (1,), (2,)]
    output = inspection(("conv", "Conv", "x"), ("y", "Relu", "conv"), outputs="conv y")
    assert [block.rows for block in tree(output)] == [(0,), (1,)]


def test_a_module_that_is_used_twice_is_drawn_where_it_is_used() -> None:
    found = inspection(
        ("shared.conv", "Conv", "x"),
        ("shared.pool", "MaxPool", "shared.conv"),
        ("between", "Conv", "shared.pool"),
        ("shared.conv_1", "Conv", "between"),
        ("shared.pool_1", "MaxPool", "shared.conv_1"),
        ("y", "Conv", "shared.pool_1"),
    )
    assert [(block.label, block.rows) for block in tree(found)] == [
        ("shared", (0, 1)), ("between", (2,)), ("shared", (3, 4)), ("y", (5,)),
    ]  # fmt: skip


def test_names_of_pytorchs_older_exporter_are_paths() -> None:
    found = inspection(
        ("/layer1/layer1.0/conv1/Conv", "Conv", "x"),
        ("/layer1/layer1.0/conv2/Conv", "Conv", "/layer1/layer1.0/conv1/Conv"),
        ("/layer1/layer1.1/conv1/Conv", "Conv", "/layer1/layer1.0/conv2/Conv"),
        ("/head/Conv", "Conv", "/layer1/layer1.1/conv1/Conv"),
        outputs="/head/Conv",
    )
    layer, head = tree(found)
    assert (layer.label, head.label) == ("layer1", "head")
    assert labels(layer.parts) == ["layer1.0", "layer1.1"]
    assert labels(layer.parts[0].parts) == ["conv1", "conv2"]


def test_metadata_of_pytorchs_exporter_names_the_module() -> None:
    found = inspection(
        ("node_conv_1", "Conv", "x"),
        ("node_conv_2", "Conv", "node_conv_1"),
        ("node_conv_3", "Conv", "node_conv_2"),
        outputs="node_conv_3",
        modules={"node_conv_1": "stem.first", "node_conv_2": "stem.second", "node_conv_3": "head"},
    )
    assert labels(tree(found)) == ["stem", "head"]


def test_a_flat_graph_is_folded_where_it_repeats() -> None:
    layers: list[LayerText] = [("pool", "MaxPool", "x")]
    for i in range(20):
        before = layers[-1][0]
        layers += [(f"conv_{i}", "Conv", before), (f"join_{i}", "Add", f"conv_{i} {before}")]
    (pool, repeated) = tree(inspection(*layers, outputs="join_19"))
    assert (pool.label, repeated.copies, len(repeated.parts)) == ("pool", 20, 20)


def test_a_module_around_everything_is_left_out() -> None:
    found = inspection(("model.a", "Conv", "x"), ("model.b", "Conv", "model.a"), outputs="model.b")
    assert labels(tree(found)) == ["a", "b"]


def test_constants_are_drawn_with_what_reads_them() -> None:
    found = inspection(
        ("split", "Split", ""), ("block.a", "Conv", "x"), ("block.b", "Add", "block.a split"), ("y", "Conv", "block.b")
    )
    block, head = tree(found)
    assert (sorted(block.rows), head.rows) == ([0, 1, 2], (3,))


@st.composite
def random_graphs(draw: st.DrawFn) -> Inspection:
    count = draw(st.integers(1, 25))
    modules = st.lists(st.sampled_from(["a", "b", "0"]), max_size=3).map(".".join)
    layers = []
    for row in range(count):
        names = ["x", *(f"n{other}" for other in range(row))]
        reads = draw(st.lists(st.sampled_from(names[-6:]), max_size=3, unique=True))
        layers.append((f"n{row}", draw(st.sampled_from(["Conv", "Relu", "Add", "Mul"])), " ".join(reads)))
    return inspection(*layers, outputs=f"n{count - 1}", modules={f"n{row}": draw(modules) for row in range(count)})


@settings(deadline=None)
@given(random_graphs())
def test_blocks_partition_the_layers_and_no_path_reenters_a_block(found: Inspection) -> None:
    wiring = Wiring.of(found)

    def check(blocks: tuple[Block, ...], rows: set[int]) -> None:
        assert sorted(row for block in blocks for row in block.rows) == sorted(rows)
        place = {row: i for i, block in enumerate(blocks) for row in block.rows}
        for row in rows:
            assert all(place[source] <= place[row] for source in wiring.sources[row] if source in rows)
        for block in blocks:
            if block.parts:
                assert len(block.parts) > 1
                check(block.parts, set(block.rows))

    check(block_tree(wiring), set(range(len(found.layers))))


def test_blocks_of_another_height_and_width_are_not_merged() -> None:
    found = inspection(*residuals(5, prefix="block"))
    layers = tuple(
        msgspec.structs.replace(row, output_shape=(1, 4, 4, 4)) if row.name.startswith("block2") else row
        for row in found.layers
    )
    found = msgspec.structs.replace(found, layers=layers)
    assert labels(tree(found)) == ["stem", "block1", "block2", "block3 … 5", "y"]
