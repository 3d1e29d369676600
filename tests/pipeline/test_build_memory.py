"""Memory of a build in multiples of the model's weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit
from tools.bench.growth import file_with_weights

ROOT = Path(edgekit.__file__).parents[1]
MEGABYTE = 1 << 20
CODE = """
import resource, sys, warnings
import edgekit
warnings.simplefilter("ignore")
peaks = []
for size in sys.argv[2:]:
    edgekit.build(f"{sys.argv[1]}/{size}/model.onnx", precision="fp32", target="cpu", profile=False, threads=1,
                  output=f"{sys.argv[1]}/built-{size}", progress=False)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peaks.append([resource.getrusage(each).ru_maxrss // 1024 for each in who])
print(*(large - small for small, large in zip(*peaks)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("external", [False, True])
def test_a_build_takes_memory_for_less_than_three_copies_of_the_weights(external: bool, tmp_path: Path) -> None:
    """In the process that loads and compares, and in the one that builds."""
    megabytes = 96
    for size in (1, megabytes):
        file_with_weights(tmp_path / str(size), size * MEGABYTE, external=external)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), "1", str(megabytes)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "EDGEKIT_CACHE": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert max(map(int, done.stdout.split())) < 3 * megabytes
