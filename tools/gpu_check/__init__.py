"""What EdgeKit does on a GPU that is at hand: does it work, is it right, how fast is it; all of it in one JSON.

Needs a CUDA machine, Python, a checkout, and either an environment with EdgeKit's dependencies or a folder of wheels::

    python -m tools.gpu_check --output result.json                    # in the present environment
    python -m tools.gpu_check --wheels wheels/ --output result.json   # in a new one, made of what lies in wheels/

The folder of wheels is made elsewhere, for the machine's Python::

    pip download -d wheels -c constraints.txt pytest -r <(the extras build, cpu, tensorrt and rtx)

Every step runs in a process of its own: one that fails, crashes or hangs is recorded in its own words, and the rest
goes on. Exit status: 0 all is well, 1 a step failed, 3 there is no device. ``EDGEKIT_TEST_DATA`` names a folder with
``yolov3-tiny/yolov3-tiny.weights`` and ``photos/``; without it weights are random, and INT8 cannot be judged by its
detections.
"""
