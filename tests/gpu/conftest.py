from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgekit.device.cuda.choose import device_properties, driver
from edgekit.device.cuda.driver import Driver
from edgekit.device.cuda.resources import Context
from edgekit.errors import EdgeKitError


@pytest.hookimpl(tryfirst=True)  # before `-m "not gpu"` is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a GPU, and is skipped by that name without one."""
    here = [item for item in items if item.path.parent.name == "gpu"]
    if not here:
        return
    try:
        device_properties()
    except EdgeKitError as e:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {e.message}"))
    for item in here:
        item.add_marker(pytest.mark.gpu)


@pytest.fixture
def gpu() -> Driver:
    return driver()


@pytest.fixture
def context(gpu: Driver) -> Iterator[Context]:
    with Context(gpu) as context, context.current():
        yield context
