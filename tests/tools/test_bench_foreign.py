"""The benchmark of other people's models keeps its results, compares the right tensors, and feeds what it says."""

from __future__ import annotations

import json

import click
import numpy as np
import onnx
import pytest

from tools.bench import foreign, foreign_turns
from tools.bench.foreign_models import MODELS
from tools.bench.table import markdown_from_results
from tools.bench.workshop import Workshop

FOUND = {
    "FP32": {"ms": 10.0, "db": 200.0, "others": 0.0},
    "FP32 openvino": {"ms": 8.0, "db": 140.0, "others": 0.0},
    "EdgeKit cpu": {"ms": 4.0, "db": 30.0, "others": 0.0},
    "EdgeKit openvino": {"ms": 3.0, "db": 33.0, "others": 0.0},
    foreign.TYPED: {"db": 28.5, "others": 0.0},
    "quantize_static": {"ms": 2.0, "db": 9.0, "others": 0.0},
    "quantize_dynamic": {"ms": 6.0, "db": 31.5, "others": 0.0},
    "NNCF": {"error": "KeyError: 'embedding'"},
}
"""``quantize_static`` has less than 10 dB, so that it is no peer."""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A workshop with files of three models, whose measurements are `FOUND` with the model's name."""
    models, results = tmp_path / "models", tmp_path / "results"
    for folder in (models, results):
        folder.mkdir()
    for name in ("bert", "minilm", "llama"):
        (models / f"{name}.onnx").touch()

    def measure(shop, name, model, file):
        keys = ("db", "error") if not shop.times else ("ms", "db", "error", "others")
        return {each: {k: v for k, v in found.items() if k in keys} for each, found in FOUND.items()}

    monkeypatch.setattr(foreign, "_measure", measure)

    def make(only=(), times=True):
        return Workshop(
            tmp_path, (), threads=1, quick=True, models=models, only=only, times=times, results=results
        )  # fmt: skip

    make.results = results
    return make


def test_a_result_comes_after_each_model(shop):
    measured = [sorted(result["measured"]) for result in foreign.measure_foreign(shop())]
    assert measured[:3] == [["minilm"], ["bert", "minilm"], ["bert", "llama", "minilm"]]


def test_earlier_models_are_kept_with_their_date_and_versions(shop):
    earlier = {"date": "2020-01-02", "versions": {"edgekit": "0.0.1"}, "quick": False, "candidates": FOUND}
    (shop.results / "foreign.json").write_text(json.dumps({"measured": {"bert": earlier, "llama": earlier}}))
    *_, result = foreign.measure_foreign(shop(["llama"]))
    assert result["measured"]["bert"] == earlier
    assert result["rows"]["bert"]["date"] == "2020-01-02"
    assert result["measured"]["llama"]["date"] > "2020-01-02"
    assert result["measured"]["llama"]["versions"]["numpy"] == np.__version__


def test_times_are_kept_where_noise_alone_is_measured(shop):
    slow = {name: {**found, "ms": 77.0} if "ms" in found else found for name, found in FOUND.items()}
    earlier = {"date": "2020-01-02", "versions": {}, "quick": False, "candidates": slow}
    (shop.results / "foreign.json").write_text(json.dumps({"measured": {"bert": earlier}}))
    *_, result = foreign.measure_foreign(shop(["bert"], times=False))
    assert result["measured"]["bert"]["candidates"]["EdgeKit cpu"] == {"db": 30.0, "ms": 77.0}
    assert result["rows"]["bert"]["NNCF"] == "fails"


def test_unknown_names_are_refused(shop):
    with pytest.raises(click.BadParameter, match="no models of these names: brt"):
        next(foreign.measure_foreign(shop(["brt"])))


def test_rows_compare_with_the_best_peer_that_counts(shop):
    *_, result = foreign.measure_foreign(shop(["minilm"]))
    row = result["rows"]["minilm, trained"]
    assert (row["FP32"], row["EdgeKit openvino"], row[foreign.TYPED]) == ("8.0", "3.0 / 33.0", "– / 28.5")
    assert (row["speed"], row["ahead_db"], row["typed_db"]) == (0.5, 1.5, -1.5)
    text = markdown_from_results(
        [{"name": "foreign", "machine": {"cpu": "", "features": [], "python": ""}, "versions": {}, "threads": 1,
          "date": "", "quick": False, **result}]
    )  # fmt: skip
    assert "| **minilm, trained** | 8.0 | 4.0 / 30.0 | 3.0 / 33.0 | – / 28.5 |" in text


@pytest.mark.parametrize(("got", "expected"), [([1, 2], 200.0), ([1, np.nan], -200.0), ([np.inf, 2], -200.0)])
def test_outputs_that_are_no_numbers_are_lost(got, expected):
    exact = [[np.float32([1, 2])]]
    assert foreign_turns._db(exact, [[np.float32(got)]], 0) == expected


def test_noise_is_that_of_the_outputs_of_these_names(tmp_path, capsys):
    """Two inputs and two outputs, which OpenVINO numbers in an order of its own."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] b, float[2] a) => (float[2] z, float[2] y)'
        "{ y = Sub (a, b) z = Mul (b, b) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "tests").mkdir()
    np.savez(tmp_path / "tests" / "0.npz", a=np.float32([1, 2]), b=np.float32([5, 7]))
    candidates = {name: [name, str(tmp_path / "m.onnx")] for name in ("onnxruntime", "openvino", "unoptimized")}
    foreign_turns.main(str(tmp_path / "m.onnx"), str(tmp_path / "tests"), "1", "60", json.dumps(candidates))
    found = json.loads(capsys.readouterr().out)
    assert [found[name]["db"] > 100 for name in candidates] == [True] * 3
    assert [len(found[name]["ms"]) for name in candidates] == [9, 9, 0]


@pytest.mark.parametrize("name", ["silero_vad", "magika", "minilm", "bert", "ddddocr_rec", "ppocr_cls", "llama_step"])
def test_inputs_of_tests_are_others_than_those_of_calibration(name):
    feeds = [MODELS[name].feed(seed) for seed in (0, 1, 2)]
    again = MODELS[name].feed(0)
    assert all(np.array_equal(feeds[0][key], again[key]) for key in again)
    for other in feeds[1:]:
        assert [key for key in again if not np.array_equal(again[key], other[key])]
