from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit

ERRORS = {
    "AccuracyError": 4,
    "BackendUnavailable": 3,
    "BuildError": 1,
    "CalibrationError": 1,
    "DataError": 1,
    "EdgeKitError": 1,
    "EngineMismatch": 1,
    "ExportError": 1,
    "GraphError": 1,
    "ModelError": 1,
    "RecipeError": 2,
    "RegressionError": 5,
    "RunError": 1,
    "TrainError": 1,
    "UndecidedError": 6,
    "SpeedError": 7,
    "UsageError": 2,
}
FUNCTIONS = {"build", "compare", "compile", "debug", "estimate", "evaluate", "inspect", "load", "profile", "train"}
TYPES = set(
    "BackendOptions Class Classes CompareReport Detection Detections Estimate Evaluation Inspection LatencyReport "
    "EdgeKitWarning Manifest NoiseReport Pending Pose Poses Preprocess Progress RotatedDetection RotatedDetections "
    "Segment Segments Session Statistics TensorRtOptions TensorSpec "
    "Trained".split()
)

# Names that users' programs contain; names may be added, but not removed.
PARAMETERS = {
    "build": ["model", "precision", "target", "weights", "calib", "output"],
    "compare": ["paths", "rounds", "seconds", "threads", "sizes"],
    "compile": ["bundle", "target", "output", "engine"],
    "debug": ["model", "precision", "target", "against", "graph_only", "save"],
    "estimate": ["model", "board", "precision", "shape", "input"],
    "evaluate": ["path", "data", "split", "limit", "score_threshold", "threads"],
    "inspect": ["model", "shape", "input", "precision"],
    "load": ["path", "threads"],
    "profile": ["path", "runs", "duration_s", "warmup", "threads", "image"],
    "train": ["model", "output", "data", "weights", "resume"],
}


def test_the_names_are_these() -> None:
    assert set(edgekit.__all__) == {*ERRORS, *FUNCTIONS, *TYPES, "__version__"}


def test_every_name_can_be_had() -> None:
    assert all(hasattr(edgekit, name) for name in edgekit.__all__)


def test_dir_lists_what_has_not_been_used_yet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import edgekit; print(*dir(edgekit))"], capture_output=True, text=True, check=True
    )
    assert set(edgekit.__all__) <= set(done.stdout.split())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = edgekit.biuld


@pytest.mark.parametrize(("name", "code"), ERRORS.items())
def test_every_error_derives_from_one_and_has_its_exit_code(name: str, code: int) -> None:
    error = getattr(edgekit, name)
    assert issubclass(error, edgekit.EdgeKitError)
    assert error.exit_code == code
    assert error("what", hint="how").hint == "how"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_parameters_stay(name: str) -> None:
    parameters = inspect.signature(getattr(edgekit, name)).parameters
    assert [wanted for wanted in PARAMETERS[name] if wanted not in parameters] == []


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, *TYPES}))
def test_every_function_and_type_is_documented(name: str) -> None:
    doc = inspect.getdoc(getattr(edgekit, name)) or ""
    assert len(doc.splitlines()[0]) > 10


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_what_a_function_returns_is_a_name_of_the_package_or_of_python(name: str) -> None:
    returned = str(inspect.signature(getattr(edgekit, name)).return_annotation)
    assert returned in {*edgekit.__all__, "Path"}


def test_the_names_for_type_checkers_are_those_that_are_loaded() -> None:
    source = Path(edgekit.__file__).read_text()
    tests = {ast.unparse(node.test): node for node in ast.parse(source).body if isinstance(node, ast.If)}
    pairs = {
        (each.asname or each.name, f"{line.module}:{each.name}")
        for line in tests["TYPE_CHECKING"].body
        if isinstance(line, ast.ImportFrom) and line.module != "typing"
        for each in line.names
    }
    assert pairs == set(edgekit._ON_USE.items())


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_only_the_first_parameter_is_positional(name: str) -> None:
    kinds = [parameter.kind for parameter in inspect.signature(getattr(edgekit, name)).parameters.values()]
    assert kinds[0] is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds[1:]) == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_wrong_argument_is_an_error_that_has_the_public_name(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'wrong'"):
        getattr(edgekit, name)("x", wrong=1)


def test_int8_is_the_default_precision() -> None:
    assert inspect.signature(edgekit.build).parameters["precision"].default == "int8"
