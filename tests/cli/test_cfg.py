"""Builds engines from unchanged Darknet cfg and weights files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edgekit
from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.measure import compare as side_by_side
from edgekit.models.cfg.module import module_from_cfg
from edgekit.models.darknet import save_darknet

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n\n"
BODY = "[net]\nwidth=64\nheight=64\nchannels=3\n\n" + CONV.format(16, 2) + CONV.format(16, 2) + CONV.format(32, 2)
HEADS = {
    "yolov1": "[local]\nfilters=16\nsize=3\npad=1\nactivation=leaky\n\n[dropout]\n\n[connected]\noutput=960\n"
    "activation=linear\n\n[detection]\nclasses=5\nnum=2\nside=8\ncoords=4\nsqrt=1\n",
    "yolov2": "[convolutional]\nfilters=16\nsize=1\nactivation=linear\n\n[region]\nclasses=3\nnum=2\nanchors=1,1,2,3\n"
    "softmax=1\n",
    "yolov3": "[convolutional]\nfilters=16\nsize=1\nactivation=linear\n\n[yolo]\nclasses=3\nnum=3\nmask=0,2\n"
    "anchors=8,8,9,9,16,24\n",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workplace")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    for kind, head in HEADS.items():
        (folder / f"{kind}.cfg").write_text(BODY + head)
        torch.manual_seed(0)
        module = module_from_cfg(str(folder / f"{kind}.cfg"), 64, 64)
        for part in module.modules():
            if isinstance(part, torch.nn.Linear) or (isinstance(part, torch.nn.Conv2d) and part.bias is not None):
                torch.nn.init.normal_(part.weight, std=0.02 if kind == "yolov1" else 0.2)
                torch.nn.init.normal_(part.bias)
        save_darknet(module, folder / f"{kind}.weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
        patch.setattr(side_by_side, "MEASURE_S", 0.1)
        yield folder


@pytest.mark.parametrize("kind", HEADS)
def test_a_network_and_its_weights_become_an_int8_engine_that_finds_boxes(kind: str, workplace: Path) -> None:
    cfg, weights, out = (workplace / f"{kind}{suffix}" for suffix in (".cfg", ".weights", "-engine"))
    words = ["build", str(cfg), "--weights", str(weights), "--int8", "--calib-images", "4", "-o", str(out)]
    assert main([*words, "--no-profile"]) == 0
    manifest = read_manifest(out)
    assert (manifest.name, manifest.task, manifest.source.kind, manifest.source.name) == (
        kind,
        "detect",
        "cfg",
        cfg.name,
    )
    assert manifest.source.sha256 == hashlib.sha256(cfg.read_bytes()).hexdigest()
    assert manifest.source.weights is not None and manifest.source.weights.trained
    assert manifest.postprocess is not None and type(manifest.postprocess.head).__struct_config__.tag == kind
    with edgekit.load(out) as session:
        found = session.detect(workplace / "photo.png", score_threshold=0.01)
    assert len(found) > 0
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2] <= 80).all() and (found.boxes[:, 3] <= 60).all()


def test_a_classifier_becomes_an_int8_engine_of_logits(workplace: Path) -> None:
    block = CONV.format(8, 1) + CONV.format(32, 1) + "[shortcut]\nfrom=-3\nactivation=leaky\n\n"
    joined = "[reorg]\nstride=2\n\n[route]\nlayers=-2\n\n[maxpool]\nsize=2\nstride=2\n\n[route]\nlayers=-1,-3\n\n"
    ending = "[avgpool]\n\n[convolutional]\nfilters=3\nsize=1\nactivation=linear\n\n[softmax]\ngroups=1\n"
    (workplace / "net.cfg").write_text(BODY + block + joined + ending)
    (workplace / "net.names").write_text("cat\ndog\nbird\n")
    out = workplace / "classifier"
    assert main(["build", "--cfg", str(workplace / "net.cfg"), "--int8", "--no-profile", "-o", str(out)]) == 0
    manifest = read_manifest(out)
    assert (manifest.task, manifest.labels) == ("classify", ("cat", "dog", "bird"))
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [("logits", (1, 3))]


def test_cfg_as_an_option_is_the_same_model(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(workplace / "yolov2.cfg")
    found = []
    for words in (["--cfg", path], [path]):
        assert main(["inspect", *words, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    convolutions = 3 * 16 * 9 + 16 * 16 * 9 + 16 * 32 * 9 + 2 * (16 + 16 + 32)
    assert found[0]["parameters"] == convolutions + 32 * 16 + 16


def test_another_shape_makes_another_input(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(workplace / "yolov3.cfg")
    assert main(["inspect", path, "--shape", "32x96", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"][0]["shape"] == [1, 3, 32, 96] and found["outputs"][0]["shape"] == [1, 16, 4, 12]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing argument 'MODEL'"),
        (["yolov3", "--cfg", "yolov3.cfg"], "--cfg and MODEL: expected one of them, got 'yolov3.cfg' and 'yolov3'"),
        (["--cfg", "yolov3"], "expected a Darknet file that ends in .cfg, got 'yolov3'"),
        (["--cfg", "absent.cfg"], "'absent.cfg': expected a Darknet cfg file, got no such file"),
        (["--cfg", "odd.cfg"], "cfg odd.cfg, line 5: [lstm]: unsupported layer"),
        (["yolov3.cfg", "--shape", "60x64"], "expects a height and a width that are multiples of 8, got 60x64"),
        (["yolov1.cfg", "--shape", "32x32"], "expects 64x64, because it has fully connected layers, got 32x32"),
    ],
)
@pytest.mark.parametrize("command", ["build", "inspect"])
def test_error_says_what_is_wrong_with_it(
    command: str,
    words: list[str],
    expected: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (workplace / "odd.cfg").write_text("[net]\nwidth=8\nheight=8\nchannels=3\n[lstm]\n")
    monkeypatch.chdir(workplace)
    assert main([command, *words]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_error_on_weights_of_another_network_names_the_layer(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = workplace / "yolov3.weights"
    short = workplace / "short.weights"
    short.write_bytes(weights.read_bytes()[:-8])
    assert main(["build", str(workplace / "yolov3.cfg"), "--weights", str(short)]) == 1
    assert "the file ends in 'head8', layer 4 of 4" in " ".join(capsys.readouterr().err.split())
