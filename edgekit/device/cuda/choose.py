"""Chooses the Python package for CUDA: cuda-bindings or pycuda."""

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
    """Returns the CUDA driver API through cuda-bindings, else through pycuda; the result is cached.

    Raises:
        BackendUnavailable: neither package is installed, NVIDIA's driver is missing, or it finds no device.
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
            f"CUDA needs NVIDIA's driver, libcuda.so.1, which was not found ({'; '.join(missing)})", hint=NO_DRIVER
        )
    raise BackendUnavailable(
        f"CUDA needs the package 'cuda-bindings' or 'pycuda', but neither works here ({'; '.join(missing)})",
        hint=f"{bindings_command()}; on a Jetson, pycuda also works: pip install pycuda",
    )


def device_properties(index: int = 0) -> DeviceProperties:
    """Returns the properties of a GPU.

    Raises:
        BackendUnavailable: the GPU or CUDA is not available; see `driver`.
    """
    return driver().properties(index)
