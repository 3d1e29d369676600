import msgspec
import numpy as np
import pytest

from edgekit.engine.bundle.manifest import FORMAT, Machine, Manifest, Source
from edgekit.recipe.schema import Postprocess, Preprocess, load_recipe
from edgekit.runtime.session import Session
from edgekit.specs import Precision, TensorSpec


class ScriptedEngine:
    """Returns scripted outputs and records its inputs."""

    notes = ()

    def __init__(self, inputs, outputs, answer):
        self.inputs, self.outputs, self.answer = inputs, outputs, answer
        self.given, self.closed, self.running, self.most_running = [], 0, 0, 0

    def run(self, feeds):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.given.append(feeds)
        answer = self.answer(feeds)
        self.running -= 1
        return answer

    def close(self):
        self.closed += 1


def head_with(found, anchors, classes, rows, columns):
    """A YOLOv3 head that finds just these: ``(anchor, row, column, class, logit)``, boxes as large as the anchor."""
    head = np.full((anchors, 5 + classes, rows, columns), -30, np.float32)
    head[:, :4] = 0
    for anchor, row, column, kind, logit in found:
        head[anchor, 4, row, column] = logit
        head[anchor, 5 + kind, row, column] = 30
    return head.reshape(1, -1, rows, columns)


@pytest.fixture
def detector():
    """Manifest of a YOLOv3-tiny."""
    recipe = load_recipe("yolov3-tiny")
    return Manifest(
        format=FORMAT,
        edgekit="0",
        created="2026-01-01T00:00:00Z",
        name=recipe.name,
        task=recipe.task,
        backend="null",
        backend_version="0",
        precision=Precision.FP32,
        layers={"float32": 13},
        engine="engine.null",
        machine=Machine(arch="x86_64", cpu="", features=(), system=""),
        source=Source(kind="recipe", name=recipe.name),
        inputs=(TensorSpec("images", "float32", (1, 3, 416, 416)),),
        outputs=tuple(
            TensorSpec(head.output, "float32", (1, 255, 416 // head.stride, 416 // head.stride))
            for head in recipe.postprocess.head.heads
        ),
        preprocess=recipe.preprocess,
        postprocess=recipe.postprocess,
        labels=recipe.labels.names,
        build_command="edgekit build yolov3-tiny --target null",
    )


CELLS = 40
"""Number of boxes of the models with masks, key points and rotated boxes; their input has 64 x 48 px."""


@pytest.fixture
def letterboxed(detector):
    """Makes the manifest of an Ultralytics model with two classes from its task and its head."""

    def manifest(task, head, *outputs):
        return msgspec.structs.replace(
            detector,
            name=f"made-{task}",
            task=task,
            inputs=(TensorSpec("images", "float32", (1, 3, 48, 64)),),
            outputs=(TensorSpec("output0", "float32", (1, 6 + head.extras, CELLS)), *outputs),
            preprocess=Preprocess(resize="letterbox", rounding="nearest", pad=114, antialias=False),
            postprocess=Postprocess(head=head, score_threshold=0.25, iou_threshold=0.7),
            labels=("cat", "dog"),
        )

    return manifest


@pytest.fixture
def raw_cells():
    """Makes the output of a model with two classes: random boxes in px, low scores, and random extras."""

    def made(extras, seed=0):
        random = np.random.default_rng(seed)
        output = np.zeros((1, 6 + extras, CELLS), np.float32)
        output[0, :2] = random.uniform(8, 40, (2, CELLS))
        output[0, 2:4] = random.uniform(10, 24, (2, CELLS))
        output[0, 4:6] = random.uniform(0, 0.2, (2, CELLS))
        output[0, 6:] = random.normal(size=(extras, CELLS))
        return output

    return made


@pytest.fixture
def tensors(detector):
    """Manifest of a model that takes two arrays and no image."""
    return msgspec.structs.replace(
        detector,
        name="adder",
        task="tensor",
        inputs=(TensorSpec("left", "float32", ("N", 4)), TensorSpec("right", "int64", ("N",))),
        outputs=(TensorSpec("sum", "float32", ("N", 4)),),
        preprocess=None,
        postprocess=None,
        labels=(),
    )


@pytest.fixture
def dog_and_car(detector):
    """Outputs in which a YOLOv3-tiny finds a dog in the middle of its input and a fainter car left of it."""
    coarse, fine = detector.postprocess.head.heads
    return {
        coarse.output: head_with([(1, 6, 6, 16, 3.0)], 3, 80, 13, 13),
        fine.output: head_with([(2, 13, 5, 2, 1.0)], 3, 80, 26, 26),
    }


@pytest.fixture
def engine(detector, dog_and_car):
    return ScriptedEngine(detector.inputs, detector.outputs, lambda feeds: dog_and_car)


@pytest.fixture
def session(engine, detector):
    with Session(engine, detector) as session:
        yield session


@pytest.fixture
def adder_engine(tensors):
    return ScriptedEngine(
        tensors.inputs, tensors.outputs, lambda feeds: {"sum": feeds["left"] + feeds["right"][:, None]}
    )


@pytest.fixture
def adder(adder_engine, tensors):
    with Session(adder_engine, tensors) as session:
        yield session
