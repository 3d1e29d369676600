import pytest

from edgekit.arguments import on_command_line
from edgekit.errors import UsageError
from edgekit.recipe.heads import YoloHead, YoloV1, YoloV3
from edgekit.recipe.schema import Postprocess
from edgekit.runtime.class_names import check_class_names, class_count
from edgekit.specs import TensorSpec

V3 = Postprocess(head=YoloV3(heads=(YoloHead(output="a", stride=8, anchors=((1, 2), (3, 4), (5, 6))),)))
V1 = Postprocess(head=YoloV1(heads=(YoloHead(output="a", stride=8, boxes=2),)))


def spec(*shape: int | str) -> TensorSpec:
    return TensorSpec("a", "float32", shape)


@pytest.mark.parametrize(
    ("task", "postprocess", "outputs", "expected"),
    [
        ("detect", V3, [spec(1, 3 * (5 + 80), 13, 13)], 80),
        ("detect", V1, [spec(1, 20 + 10, 7, 7)], 20),
        ("classify", None, [spec("N", 10)], 10),
        ("classify", None, [spec(1, 10, 1, 1)], 10),
        ("tensor", None, [spec(1, 10)], 10),
        ("tensor", None, [spec(1, 10, 7)], None),
        ("tensor", None, [spec(1, 10), spec(1, 4)], None),
        ("tensor", None, [spec(1, "C")], None),
        ("tensor", None, [spec()], None),
        ("translate", None, [spec(1, 10)], None),
    ],
)
def test_classes_are_counted_in_the_outputs(
    task: str, postprocess: Postprocess | None, outputs: list[TensorSpec], expected: int | None
) -> None:
    assert class_count(task, postprocess, outputs) == expected


def test_there_is_a_name_for_each_class() -> None:
    check_class_names(["a", "b"], 2, "x")
    check_class_names(["a", "b"], None, "x")
    with (
        on_command_line(),
        pytest.raises(UsageError, match="--labels: expected 3 names, the number of classes of 'x', got 2"),
    ):
        check_class_names(["a", "b"], 3, "x")
