"""Ctrl-C ends a run of ONNX Runtime that would take hours."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.graph.evaluator import Evaluator
from edgekit.interrupts import runs_end_on_interrupt

LONG = """<ir_version: 9, opset_import: ["" : 20]>
g (float[8, 8] x) => (float[8, 8] y) <int64 count = {2000000000}, bool go = {1}> {
    y = Loop (count, go, x) <body = b (int64 i, bool on, float[8, 8] v) => (bool still, float[8, 8] w) {
        still = Identity (on)  w = Tanh (v) }> }"""
SCRIPT = """
import sys
import numpy as np
import onnx_ir as ir
from edgekit.graph.evaluator import Evaluator
from edgekit.interrupts import runs_end_on_interrupt

evaluator = Evaluator(ir.load(sys.argv[1]), threads=1)
with runs_end_on_interrupt():
    print("runs", flush=True)
    try:
        evaluator.run({"x": np.zeros((8, 8), np.float32)})
    except KeyboardInterrupt:
        print("interrupted", flush=True)
graph = ir.from_proto(__import__("onnx").parser.parse_model(sys.argv[2]))
print(Evaluator(graph).run({"x": np.ones(1, np.float32)})["y"])
"""
SHORT = '<ir_version: 9, opset_import: ["" : 20]> g (float[1] x) => (float[1] y) { y = Neg (x) }'


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_run_and_later_runs_go_on(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(LONG), tmp_path / "long.onnx")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "long.onnx"), SHORT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "runs\n"
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert output == "interrupted\n[-1.]\n" and process.returncode == 0


def test_the_context_gives_back_what_it_took() -> None:
    before = threading.active_count()
    with runs_end_on_interrupt(), runs_end_on_interrupt():  # the second one leaves the signals to the first
        graph = ir.from_proto(onnx.parser.parse_model(SHORT))
        np.testing.assert_array_equal(Evaluator(graph).run({"x": np.ones(1, np.float32)})["y"], [-1])
    assert threading.active_count() == before
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_may_enter_it() -> None:
    entered = []

    def enter() -> None:
        with runs_end_on_interrupt():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered
