"""Checks EdgeKit on a GPU: whether it works, its accuracy and its speed; writes the results to one JSON file.

Needs a CUDA machine, Python, a checkout, and either an environment with EdgeKit's dependencies or a folder of wheels::

    python -m tools.gpu_check --output result.json                    # in the present environment
    python -m tools.gpu_check --wheels wheels/ --output result.json   # in a new one, from the wheels in wheels/

Make the folder of wheels on another machine, for the Python of the GPU machine::

    pip download -d wheels -c constraints.txt pytest -r <(the extras build, cpu, tensorrt and rtx)

Each step runs in its own process: if it fails, crashes or hangs, its error is recorded, and the next step runs. Exit
status: 0 all steps passed, 1 a step failed, 3 no device. ``EDGEKIT_TEST_DATA`` is a folder with
``yolov3-tiny/yolov3-tiny.weights`` and ``photos/``; without it, weights are random, and the detections of INT8 are not
checked.
"""
