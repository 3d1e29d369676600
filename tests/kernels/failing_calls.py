"""Makes each call of the driver fail once."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.device.cuda.resources import Context
from edgekit.errors import RunError
from tests.fakes.fake_cuda import FakeDriver, PythonKernels


def calls_that_fail_and_leak_nothing(use: Callable[[Context], None], kernels: PythonKernels | None = None) -> int:
    """Repeats ``use`` in a new context, with its first call of the driver failing, then its second, and so on.

    Returns:
        The number of its calls. Each of them raised a `RunError`, after which everything was freed.
    """
    calls = 0
    while True:
        driver = FakeDriver(kernels=kernels)
        with Context(driver) as context:
            driver.fail_at = len(driver.calls) + calls
            try:
                use(context)
            except RunError as e:
                assert "CUDA failed" in str(e)
            done = not driver.failed
            driver.fail_at = None
        assert not driver.leaks(), f"call {calls}"
        if done:
            return calls
        calls += 1
