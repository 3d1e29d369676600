"""Shapes and parameters of layers, and errors that name the line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import RecipeError
from edgekit.models.cfg.layers import Network
from edgekit.models.cfg.sections import network_from_cfg
from tests.models.cfg.darknet_yolov4 import yolov4, yolov4_tiny

CFGS = {path.stem: path.read_text() for path in sorted(Path(__file__).parent.glob("*.cfg"))}

# published parameter counts of the networks
PARAMETERS = {"yolov3": 61_949_149, "yolov3-tiny": 8_852_366, "yolov3-spp": 62_998_749}

NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n"


def network(tmp_path: Path, text: str) -> Network:
    path = tmp_path / "net.cfg"
    path.write_text(text)
    return network_from_cfg(path)


def error(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        network(tmp_path, text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "layers", "size_bytes"),
    [
        (yolov4(), 162, 257_717_640),
        (yolov4(), 137, 170_038_676),
        (yolov4_tiny(), 38, 24_251_276),
        (yolov4_tiny(), 29, 19_789_716),
    ],
    ids=["yolov4.weights", "yolov4.conv.137", "yolov4-tiny.weights", "yolov4-tiny.conv.29"],
)
def test_published_weights_of_yolov4_have_this_size(text: str, layers: int, size_bytes: int, tmp_path: Path) -> None:
    found = network(tmp_path, text).layers[:layers]
    assert len(found) == layers
    # Four bytes a number, after 20 bytes of header; a normalization has statistics besides its parameters.
    assert 20 + 4 * sum(layer.parameters + 2 * layer.filters * layer.norm for layer in found) == size_bytes


def test_the_options_of_yolov7_tiny_are_known(tmp_path: Path) -> None:
    conv = "[convolutional]\nfilters=24\nsize=1\nstride=8\nactivation=logistic\n"
    head = (
        "[yolo]\nmask=0,1,2\nanchors=10,13,16,30,33,23\nclasses=3\nnum=3\njitter=.1\nscale_x_y=2.0\n"
        "objectness_smooth=1\nignore_thresh=.7\ntruth_thresh=1\nresize=1.5\niou_thresh=0.2\niou_normalizer=0.05\n"
        "cls_normalizer=0.5\nobj_normalizer=1.0\niou_loss=ciou\nnms_kind=diounms\nbeta_nms=0.6\nnew_coords=1\n"
        "max_delta=2\n"
    )
    found = network(tmp_path, f"{NET}{conv}{head}")
    (each,) = found.heads
    assert (each.scale_xy, each.new_coords, found.diou_beta, found.keeps_aspect) == (2.0, True, 0.6, False)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_are_as_many_as_published(name: str, parameters: int, tmp_path: Path) -> None:
    assert network(tmp_path, CFGS[name]).parameters == parameters


@pytest.mark.parametrize(
    ("section", "shape"),
    [
        ("[convolutional]\nfilters=4\nsize=3\nstride=2\npad=1", (4, 16, 16)),
        ("[convolutional]\nfilters=4\nsize=3", (4, 30, 30)),
        ("[convolutional]\nfilters=4\nsize=3\npadding=2", (4, 34, 34)),
        ("[convolutional]\nfilters=6\nsize=7\nstride=2\npad=1\ngroups=3", (6, 16, 16)),
        ("[maxpool]\nsize=2\nstride=2", (3, 16, 16)),
        ("[maxpool]\nsize=2\nstride=1", (3, 32, 32)),
        ("[maxpool]\nsize=3\nstride=2\npadding=0", (3, 15, 15)),
        ("[maxpool]\nsize=5\nstride=3", (3, 11, 11)),
        ("[max]\nstride=2", (3, 16, 16)),
        ("[avgpool]", (3, 1, 1)),
        ("[upsample]\nstride=3", (3, 96, 96)),
        ("[local]\nfilters=2\nsize=3\nstride=2\npad=1", (2, 16, 16)),
        ("[connected]\noutput=10", (10, 1, 1)),
        ("[dropout]\nprobability=.5", (3, 32, 32)),
        ("[crop]\ncrop_width=20\ncrop_height=24\nflip=0\nangle=0\nsaturation=1.5\nexposure=1.5", (3, 24, 20)),
        ("[cost]\ntype=sse", (3, 32, 32)),
        ("[activation]\nactivation=relu", (3, 32, 32)),
    ],
)
def test_shapes_match_darknet(section: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    assert network(tmp_path, f"{NET}{section}\n").layers[0].shape == shape


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("[lstm]\noutput=3", 12, "[lstm]: unsupported layer"),
        ("[convolution]", 12, "did you mean convolutional"),
        ("[convolutional]\nfiltres=3", 13, "[convolutional] filtres: unknown option"),
        ("[convolutional]\nactivation=lhtan", 13, "[convolutional] activation: expected one of elu, hardtan"),
        ("[convolutional]\nfilters=0", 13, "[convolutional] filters: expected a number from 1 to"),
        (
            "[convolutional]\nfilters=4\nsize=99",
            12,
            "[convolutional]: expected a non-empty output, got 4x-66x-66 from 8x32x32",
        ),
        ("[convolutional]\nfilters=9\ngroups=3", 14, "groups: expected a divisor of its 8 channels, got 3"),
        ("[convolutional]\nfilters=9\ngroups=2", 14, "groups: expected a divisor of its 9 filters, got 2"),
        ("[convolutional]\nflipped=1", 13, "[convolutional] flipped: expected 0, the only supported value, got 1"),
        ("[convolutional]\nfilters=2000000000\nsize=9", 12, "expected at most 2147483647 values"),
        ("[connected]\noutput=2000000", 12, "[connected]: expected at most 2147483647 parameters in total"),
        ("[upsample]\nstride=2000000000", 12, "[upsample]: expected at most 2147483647 values"),
        ("[maxpool]\nsize=2\nstride=2\npadding=5", 15, "padding: expected at most 2 with size=2, got 5"),
        ("[local]\nsize=5\npad=1", 14, "[local] pad: expected 0, or 1 with size=3, got 1 with size=5"),
        ("[route]", 12, "[route]: expected layers=, the layers to concatenate"),
        ("[route]\nlayers=-2", 13, "layers: expected a layer before this one, number 1, got -2"),
        ("[route]\nlayers=1", 13, "layers: expected a layer before this one, number 1, got 1"),
        ("[maxpool]\nstride=2\n[route]\nlayers=-1,-2", 15, "got 8x16x16 from -1 and 8x32x32 from -2"),
        ("[shortcut]\nactivation=linear", 12, "[shortcut] from: expected from= with one layer, got 0"),
        ("[shortcut]\nfrom=-9", 13, "from: expected a layer before this one, number 1, got -9"),
        (
            "[convolutional]\nfilters=4\n[shortcut]\nfrom=-2",
            15,
            "[shortcut] from: expected two layers of the same shape, got 4x32x32 and, from -2, 8x32x32",
        ),
        ("[reorg]\nstride=3", 13, "[reorg] stride: expected multiples of the stride as height and width"),
        (
            "[reorg]\nstride=4",
            13,
            "[reorg] stride: expected multiples of the stride as height and width, and of its square as channels",
        ),
        ("[softmax]", 12, "[softmax]: expected an input with one row and one column, got 8x32x32"),
        ("[softmax]\ngroups=2", 13, "[softmax] groups: expected 1, the only supported value, got 2"),
        ("[crop]\ncrop_width=99\ncrop_height=9", 12, "[crop]: expected at most 32x32, got 9x99"),
        ("[region]\nnum=1\nanchors=1,1\nclasses=3", 12, "[region]: expected softmax=1, got none"),
        (
            "[region]\nnum=1\nanchors=1,1\nclasses=4\nsoftmax=1",
            12,
            "[region]: expected 9 channels, 1 anchors * (5 + 4 classes), from the previous layer, got 8\n"
            "set filters=9 in line 7",
        ),
        (
            "[maxpool]\n[yolo]\nnum=1\nanchors=1,1\nclasses=4",
            13,
            "from the previous layer, got 8\nadd a [convolutional] with filters=9 and activation=linear before it",
        ),
        (
            "[connected]\n[detection]\nclasses=2\ncoords=4\nsqrt=1",
            13,
            "from the previous layer, got 1\nadd output=343 after line 12",
        ),
        (
            "[region]\nnum=2\nanchors=1,1\nclasses=3\nsoftmax=1",
            14,
            "anchors: expected 4 numbers, two per anchor with num=2",
        ),
        ("[region]\nnum=1\nanchors=1,-1\nclasses=3\nsoftmax=1", 14, "anchors: expected widths and heights > 0, got -1"),
        ("[region]\nnum=1\nanchors=1,1\nclasses=3\nsoftmax=1\ntree=9k.tree", 17, "tree: unknown option"),
        (
            "[yolo]\nnum=1\nanchors=1,1\nclasses=3\nmask=1",
            16,
            "mask: expected anchor indices from 0 to 0, got 1",
        ),
        (
            "[yolo]\nnum=1\nanchors=1,1\nclasses=3\nnms_kind=cornersnms",
            16,
            "nms_kind: expected one of greedynms, diounms, got 'cornersnms'",
        ),
        (
            "[yolo]\nnum=1\nanchors=1,1\nclasses=3\nscale_x_y=0",
            16,
            "scale_x_y: expected a number above 0 and up to 100, got 0",
        ),
        ("[yolo]\nnum=1\nanchors=1,1\nclasses=3\nnew_coords=2", 16, "new_coords: expected 0 or 1, got 2"),
        ("[route]\nlayers=-1\ngroups=2\ngroup_id=2", 15, "group_id: expected at most 1 with groups=2, got 2"),
        ("[route]\nlayers=-1\ngroups=3", 14, "groups: expected a divisor of the 8 channels of -1, got 3"),
        (
            "[detection]\nclasses=2\ncoords=4\nnum=1\nside=7\nsqrt=1",
            12,
            "[detection]: expected 343 values, 7 * 7 * (2 classes + 5 * 1), from the previous layer, got 8192",
        ),
        (
            "[detection]\nclasses=2\ncoords=4\nsqrt=0",
            15,
            "[detection] sqrt: expected 1, the only supported value, got 0",
        ),
        ("[detection]\nclasses=2\ncoords=4", 12, "[detection]: expected sqrt=1, got none"),
        (
            "[connected]\noutput=343\n[detection]\nclasses=2\ncoords=4\nsqrt=1",
            14,
            "[detection]: expected square cells with a whole number of px, got an input of 32x32 px with 7x7 cells",
        ),
        ("[yolo]\nnum=1\nanchors=1,1\nclasses=3\n[maxpool]", 16, "expected a [route] after the [yolo] in line 12"),
        ("[yolo]\nnum=1\nanchors=1,1\nclasses=3\n[route]\nlayers=-1", 17, "got the head in line 12"),
        (
            "[yolo]\nnum=1\nanchors=1,1\nclasses=3\n[route]\nlayers=0",
            16,
            "[route]: expected nothing after the last head",
        ),
        (
            "[yolo]\nnum=1\nanchors=1,1\nclasses=3\n[route]\nlayers=0\n[region]\nnum=1\nanchors=1,1\nclasses=3\nsoftmax=1",
            18,
            "[region]: expected the same kind of head as in line 12, [yolo], got [region]",
        ),
    ],
)
def test_error_on_invalid_layers_names_the_line(section: str, line: int, expected: str, tmp_path: Path) -> None:
    message = error(tmp_path, f"{NET}{CONV}{section}\n")
    assert f"net.cfg, line {line}: " in message and expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[net]\nheight=32\nchannels=3\n[avgpool]",
            "line 1: [net] width: expected a number from 1 to 2147483647, got 0",
        ),
        ("[net]\nwidth=32\nheight=32\n[avgpool]", "line 1: [net] channels: expected a number from 1 to"),
        (NET, "line 1: [net]: expected layers after it, got none"),
        (f"{NET}[yolo]\nnum=1\nanchors=1,1\nclasses=3", "line 5: [yolo]: expected a layer before it, got none"),
        (f"{NET}[detection]\nclasses=1\ncoords=4\nsqrt=1", "line 5: [detection]: expected a layer before it, got none"),
        (f"{NET}[route]\nlayers=-1", "line 6: [route] layers: expected a layer before this one, number 0"),
    ],
)
def test_error_on_an_incomplete_network(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in error(tmp_path, text)


def test_training_options_and_net_options_are_ignored(tmp_path: Path) -> None:
    text = NET.replace("[net]", "[net]\nbatch=64\nsteps=-1,100\npolicy=steps\nhue=.1\nburn_in=1000\nmosaic=1")
    yolo = "[yolo]\nnum=1\nanchors=1,1\nclasses=3\njitter=.3\nignore_thresh=.7\ntruth_thresh=1\nrandom=1\nmax=200"
    assert network(tmp_path, f"{text}{CONV}stopbackward=1\n{yolo}").kind == "yolov3"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(CFGS)), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_damaged_cfg_only_raises_recipe_error(tmp_path: Path, name: str, seed: int, cuts: int) -> None:
    rng = random.Random(seed)
    lines = CFGS[name].splitlines()
    for _ in range(cuts):
        at = rng.randrange(len(lines))
        key, _, value = lines[at].partition("=")
        lines[at : at + 1] = rng.choice(
            [[], [lines[at]] * 2, [f"{key}={rng.choice(['0', '-1', '7', '1e9', '99999', value[::-1]])}"], [lines[0]]]
        )
    try:
        found = network(tmp_path, "\n".join(lines))
    except RecipeError as e:
        assert "net.cfg" in str(e)
    else:
        assert found.parameters >= 0 and all(min(layer.shape) > 0 for layer in found.layers)
