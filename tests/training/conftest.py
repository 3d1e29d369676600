from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch

from edgekit.data.examples import DataSet, Example, data_set
from edgekit.recipe.schema import Task


@dataclass(frozen=True)
class Few:
    """Some examples, read as a data set."""

    name: str
    task: Task
    labels: tuple[str, ...]
    examples: Sequence[Example]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


MakeFew = Callable[..., Few]


@lru_cache
def first_of(source: str, count: int) -> Few:
    whole: DataSet = data_set(source, split="train")
    return Few(f"{source}, {count}", whole.task, whole.labels, [whole[i] for i in range(count)])


@pytest.fixture(scope="session")
def few() -> MakeFew:
    """The first examples of a set that EdgeKit makes, or those that are given."""

    def make(source: str, count: int = 12, *, examples: Sequence[Example] | None = None) -> Few:
        found = first_of(source, count)
        return found if examples is None else Few(found.name, found.task, found.labels, examples)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are so small that threads only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
