from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import RecipeError
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.recipe.heads import YoloHead
from edgekit.recipe.schema import Preprocess

CFG = Path(__file__).parent
NET = "[net]\nwidth=64\nheight=32\nchannels={channels}\n"
DETECTOR = (
    f"{NET}[convolutional]\nfilters=4\nsize=3\nstride=4\npad=1\nactivation=leaky\n"
    "[convolutional]\nfilters=16\nsize=1\nactivation=linear\n"
    "[region]\nnum=2\nanchors=0.5,1.25,2,3\nclasses=3\nsoftmax=1\n"
)
CLASSIFIER = f"{NET}[convolutional]\nfilters=3\nsize=3\n[avgpool]\n[softmax]\n"


def write(folder: Path, text: str, channels: int = 3, name: str = "net.cfg") -> Path:
    (folder / name).write_text(text.format(channels=channels))
    return folder / name


def test_anchors_in_cells_become_px(tmp_path: Path) -> None:
    recipe = recipe_from_cfg(write(tmp_path, DETECTOR))
    assert recipe.postprocess is not None
    assert recipe.postprocess.head.heads == (YoloHead(output="head4", stride=4, anchors=((2.0, 5.0), (8.0, 12.0))),)
    assert recipe.quantize.keep_float == ("head4*",)


def test_another_size_changes_the_input_and_keeps_the_strides(tmp_path: Path) -> None:
    recipe = recipe_from_cfg(write(tmp_path, DETECTOR), (96, 48))
    assert recipe.inputs[0].shape == (1, 3, 96, 48)
    assert recipe.postprocess is not None and recipe.postprocess.head.heads[0].stride == 4
    with pytest.raises(RecipeError, match="line 15: .region.: expected square cells with a whole number of px"):
        recipe_from_cfg(tmp_path / "net.cfg", (97, 48))


@pytest.mark.parametrize(
    ("text", "channels", "expected"),
    [
        (DETECTOR, 3, Preprocess(resize="letterbox")),
        (DETECTOR, 1, Preprocess(resize="letterbox", color="gray", mean=(0.0,), std=(1.0,))),
        (CLASSIFIER, 3, Preprocess(resize="crop")),
        (NET + "[maxpool]\nsize=2", 3, Preprocess()),
        (NET + "[maxpool]\nsize=2", 5, None),
    ],
)
def test_preprocessing_is_that_of_darknet_s_commands(
    text: str, channels: int, expected: Preprocess | None, tmp_path: Path
) -> None:
    assert recipe_from_cfg(write(tmp_path, text, channels)).preprocess == expected


def test_a_softmax_at_the_end_makes_a_classifier_of_logits(tmp_path: Path) -> None:
    recipe = recipe_from_cfg(write(tmp_path, CLASSIFIER + "[cost]\ntype=sse\n"))
    assert (recipe.task, recipe.outputs) == ("classify", ("logits",))
    assert recipe_from_cfg(write(tmp_path, CLASSIFIER.replace("[softmax]\n", ""))).task == "tensor"


def test_labels_are_read_from_the_names_file(tmp_path: Path) -> None:
    path = write(tmp_path, DETECTOR)
    assert recipe_from_cfg(path).labels.names == ()
    (tmp_path / "net.names").write_text("cat\n\ndog\nbird \n")
    assert recipe_from_cfg(path).labels.names == ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", "net.names: expected 3 names, the number of classes of the network, got 2"),
        (b"\xff", "net.names, line 1: expected UTF-8 text, got the byte 0xff"),
    ],
)
def test_error_on_labels_that_do_not_fit(content: bytes, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path, DETECTOR)
    (tmp_path / "net.names").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        recipe_from_cfg(path)
    assert expected in str(caught.value)


def test_error_on_a_detector_without_image_input(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="line 15: .region.: expected an input of 1 or 3 channels, got 5"):
        recipe_from_cfg(write(tmp_path, DETECTOR, 5))


@pytest.mark.parametrize(
    ("file", "name"), [("Tiny YOLO.cfg", "tiny-yolo"), ("_.cfg", "network"), ("Ä1.cfg", "-1"), ("yolov3.cfg", "yolov3")]
)
def test_names_only_have_valid_characters(file: str, name: str, tmp_path: Path) -> None:
    assert recipe_from_cfg(write(tmp_path, DETECTOR, name=file)).name == name.lstrip("-")


def test_a_cfg_is_read_without_torch_import() -> None:
    code = (
        "import sys; from pathlib import Path; from edgekit.models.cfg.recipe import recipe_from_cfg;"
        f"recipe_from_cfg(Path({str(CFG / 'yolov2.cfg')!r})); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("option", "head", "resize"),
    [
        ("", "region", "letterbox"),
        ("letter_box=0", "region", "stretch"),
        ("letter_box=1", "region", "letterbox"),
        ("batch=64\nmosaic=1\npolicy=steps\nsteps=4000,5000\nscales=.1,.1\nmax_batches=6000", "region", "letterbox"),
    ],
)
def test_letter_box_chooses_how_images_are_resized(option: str, head: str, resize: str, tmp_path: Path) -> None:
    text = DETECTOR.replace("channels={channels}\n", f"channels=3\n{option}\n")
    found = recipe_from_cfg(write(tmp_path, text)).preprocess
    assert found is not None and found.resize == resize


@pytest.mark.parametrize(
    ("net", "option", "resize"),
    [("", "", "letterbox"), ("", "scale_x_y=1.05", "stretch"), ("letter_box=1", "new_coords=1", "letterbox")],
)
def test_a_network_of_alexeyabs_fork_is_stretched_by_default(
    net: str, option: str, resize: str, tmp_path: Path
) -> None:
    conv = "[convolutional]\nfilters=8\nsize=1\nstride=8\nactivation=linear\n"
    head = f"[yolo]\nanchors=4,4\nclasses=3\nnum=1\n{option}\n"
    text = f"[net]\nwidth=32\nheight=32\nchannels=3\n{net}\n{conv}{head}"
    found = recipe_from_cfg(write(tmp_path, text)).preprocess
    assert found is not None and found.resize == resize


@pytest.mark.parametrize(
    ("option", "message", "hint"),
    [
        ("letterbxo=7", "line 5: .net. letterbxo: unknown option", "letter_box"),
        ("letter_box=2", "line 5: .net. letter_box: expected 0 or 1, got 2", ""),
        ("letter_box=yes", "line 5: .net. letter_box: expected an integer", ""),
        ("time_steps=3", "line 5: .net. time_steps: expected 1, the only supported value, got 3", ""),
        ("inputs=7", "line 5: .net. inputs: expected 6144, .* got 7", ""),
        ("momentun=0.9", "line 5: .net. momentun: unknown option", "momentum"),
    ],
)
def test_options_of_net_are_checked_as_all_others(option: str, message: str, hint: str, tmp_path: Path) -> None:
    text = DETECTOR.replace("channels={channels}\n", f"channels=3\n{option}\n")
    with pytest.raises(RecipeError, match=message) as caught:
        recipe_from_cfg(write(tmp_path, text))
    assert hint in caught.value.hint


def test_names_have_a_byte_order_mark_or_are_in_darknets_usual_file(tmp_path: Path) -> None:
    path = write(tmp_path, DETECTOR)
    (tmp_path / "two.names").write_text("a\nb\n")
    assert recipe_from_cfg(path).labels.names == ()
    (tmp_path / "obj.names").write_text("\ufeffcat\r\ndog\r\nowl\r\n", encoding="utf-8")
    (tmp_path / "._obj.names").write_bytes(b"\0\5\x16\7")
    assert recipe_from_cfg(path).labels.names == ("cat", "dog", "owl")
    (tmp_path / "net.names").write_text("x\ny\nz\n")
    assert recipe_from_cfg(path).labels.names == ("x", "y", "z")


def test_names_of_two_other_files_are_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path, DETECTOR)
    for name in ("one", "other"):
        (tmp_path / f"{name}.names").write_text(f"{name}\nb\nc\n")
    assert recipe_from_cfg(path).labels.names == ()
