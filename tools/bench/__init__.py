"""EdgeKit beside its peers: latency, calibration, builds and accuracy, measured side by side in one run.

From the root of a checkout, with EdgeKit's extras ``build``, ``cpu``, ``openvino`` and ``eval`` installed::

    python -m tools.bench all                  # everything, into tools/bench/results/
    python -m tools.bench latency --quick      # one part, few runs: does it work?
    python -m tools.bench table                # the results as tables; then: python -m tools.docs

ONNX Runtime's own quantizer comes with the extra ``build``. NNCF and ModelOpt pin other versions than EdgeKit, so that
they live in environments of their own, whose interpreters are named by ``--peers`` (once for each) or by
``EDGEKIT_BENCH_PEERS``, separated by colons. What none of them can import is left out, and named::

    python -m venv nncf && nncf/bin/pip install nncf==3.4.0 onnx onnxruntime openvino==2026.4.1
    python -m venv modelopt && modelopt/bin/pip install torch==2.13.0 'nvidia-modelopt[onnx]==0.47.0'
    python -m tools.bench all --peers nncf/bin/python --peers modelopt/bin/python

A peer's environment quantizes only. Everything is timed by EdgeKit's own environment, so that all candidates run on
the same ONNX Runtime or OpenVINO. ``accuracy`` and ``detect`` need trained weights and photos: ``EDGEKIT_TEST_DATA``
names a folder with ``yolov3-tiny/yolov3-tiny.weights`` and ``photos/``.
"""
