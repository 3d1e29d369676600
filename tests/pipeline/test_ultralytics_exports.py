"""Models of the package ultralytics, exported by itself with its first weights, are recognized without options."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from edgekit.config import ModelConfig
from edgekit.pipeline.load_model import load_model
from edgekit.progress import Silent
from edgekit.recipe.heads import End2End, Head, YoloV8, task_of_head

pytestmark = pytest.mark.slow

SIDE = 160
# Whether the model selects its detections itself is an option of the export; the package's YOLOv5 has YOLOv8's head.
EXPORTS: list[tuple[str, dict[str, bool], type[Head]]] = [
    *[(name, {}, YoloV8) for name in ("yolov5n", "yolov8n", "yolo11n", "yolo12n")],
    *[(f"yolov8n-{task}", {}, YoloV8) for task in ("seg", "pose", "obb")],
    *[
        (name, {"end2end": end2end}, End2End if end2end else YoloV8)
        for name in ("yolov10n", "yolo26n")
        for end2end in (False, True)
    ],
    *[(f"yolo26n-{task}", {"end2end": True}, End2End) for task in ("seg", "pose", "obb")],
    ("rtdetr-l", {}, End2End),
]
TASKS = {"seg": "segment", "pose": "pose", "obb": "obb"}


@pytest.fixture
def ultralytics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    for name, value in {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"ultralytics needs a torchvision that fits torch: {e}")
    package: ModuleType = pytest.importorskip("ultralytics")
    return package


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "options", "family"), EXPORTS)
def test_an_export_is_recognized_with_its_metadata_and_without(
    name: str, options: dict[str, bool], family: type[Head], ultralytics: ModuleType, tmp_path: Path
) -> None:
    kind = ultralytics.RTDETR if name.startswith("rtdetr") else ultralytics.YOLO
    path = tmp_path / f"{name}.onnx"
    shutil.move(kind(f"{name}.yaml").export(format="onnx", imgsz=SIDE, simplify=False, **options), path)
    plain = tmp_path / "plain.onnx"
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, plain)
    for file in (path, plain):
        found = load_model(ModelConfig(model=str(file)), Silent())
        assert found.postprocess is not None, found.recognized
        head = found.postprocess.head
        assert isinstance(head, family)
        assert task_of_head(head) == found.task == TASKS.get(name.partition("-")[2], "detect")
