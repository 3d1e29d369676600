"""Which of two Python packages, cuda-bindings or pycuda, gives access to CUDA here."""

from __future__ import annotations

import functools

from edgekit.device.cuda.bindings import CudaBindings
from edgekit.device.cuda.driver import NO_DRIVER, DeviceProperties, Driver
from edgekit.device.cuda.packages import bindings_command
from edgekit.device.cuda.pycuda_driver import PyCuda
from edgekit.errors import BackendUnavailable

__all__ = ["device_properties", "driver"]

# In the order in which they are tried.
IMPLEMENTATIONS: tuple[type[Driver], ...] = (CudaBindings, PyCuda)


@functools.cache
def driver() -> Driver:
    """The CUDA driver API through cuda-bindings, else through pycuda; a call that succeeds is remembered.

    Raises:
        BackendUnavailable: neither package is installed, NVIDIA's driver is missing, or it shows no device.
    """
    missing = []
    for implementation in IMPLEMENTATIONS:
        try:
            found = implementation()
        except ModuleNotFoundError as e:
            missing.append(f"{e.name}: not installed")
        except ImportError as e:
            missing.append(str(e))
        else:
            found.init()
            return found
    if any("libcuda" in reason for reason in missing):
        raise BackendUnavailable(
            f"CUDA needs NVIDIA's driver, libcuda.so.1, which is not here ({'; '.join(missing)})", hint=NO_DRIVER
        )
    raise BackendUnavailable(
        f"CUDA needs the package 'cuda-bindings' or 'pycuda', and neither works here ({'; '.join(missing)})",
        hint=f"{bindings_command()}; on a Jetson, pycuda works in its place: pip install pycuda",
    )


def device_properties(index: int = 0) -> DeviceProperties:
    """Properties of the GPU with that number.

    Raises:
        BackendUnavailable: there is no such GPU, or no CUDA; see `driver`.
    """
    return driver().properties(index)
