from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.recipe.heads import BatchedRows
from edgekit.recipe.schema import Postprocess
from edgekit.runtime.batches import Batch, outputs_of_each, stacked


def test_missing_images_are_copies_of_the_last() -> None:
    arrays = [np.full((1, 2), i, np.float32) for i in range(3)]
    assert stacked(arrays, Batch(4, 4))[:, 0].tolist() == [0, 1, 2, 2]
    assert stacked(arrays, Batch(4, 1))[:, 0].tolist() == [0, 1, 2]
    assert stacked(arrays[:1], Batch(4, 1)) is arrays[0]


def test_outputs_are_split_by_image(detector: Manifest) -> None:
    outputs = {"a": np.arange(8).reshape(4, 2), "b": np.arange(4)}
    each = outputs_of_each(outputs, 3, detector)
    assert [part["a"].tolist() for part in each] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [part["b"].tolist() for part in each] == [[0], [1], [2]]


def test_the_outputs_of_one_image_may_have_any_shape(detector: Manifest) -> None:
    outputs = {"rows": np.zeros((17, 7)), "count": np.array(3)}
    (one,) = outputs_of_each(outputs, 1, detector)
    assert one["rows"] is outputs["rows"] and one["count"] is outputs["count"]


def test_rows_of_all_images_are_split_by_their_first_column(detector: Manifest) -> None:
    head = BatchedRows(output="rows")
    own = msgspec.structs.replace(detector, postprocess=Postprocess(head=head))
    rows = np.column_stack([[0, 1, 0, 2, 1], np.arange(5) * 10, np.ones((5, 5))]).astype(np.float32)
    each = outputs_of_each({"rows": rows}, 3, own)
    assert [part["rows"][:, 1].tolist() for part in each] == [[0, 20], [10, 40], [30]]
    assert all((part["rows"][:, 0] == 0).all() for part in each)


def test_error_on_outputs_that_cannot_be_split(detector: Manifest) -> None:
    with pytest.raises(RunError, match=r"an entry for each of 2 images, got rows \(17, 7\); count \(2,\)"):
        outputs_of_each({"rows": np.zeros((17, 7)), "count": np.zeros(2)}, 2, detector)
