import copy
import gc
import pickle
import threading
import time

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.engine.bundle.writing import seal
from edgekit.errors import DataError, RunError, UsageError
from edgekit.runtime.session import Session, session_from_bundle
from edgekit.specs import TensorSpec

IMAGE = np.zeros((576, 768, 3), np.uint8)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def test_outputs_come_back_by_name(adder):
    outputs = adder.run({"left": ones(3, 4), "right": np.arange(3)})
    np.testing.assert_array_equal(outputs["sum"], np.arange(3)[:, None] + ones(3, 4))
    assert [str(spec) for spec in adder.inputs] == ["left: float32 (N, 4)", "right: int64 (N)"]
    assert [spec.name for spec in adder.outputs] == ["sum"]


def test_inputs_in_any_memory_order_reach_the_engine_contiguous(adder, adder_engine):
    left = np.arange(12, dtype=np.float32).reshape(4, 3).T
    right = np.arange(6)[::2]
    swapped = left.astype(">f4")
    for given in (left, left[::-1][::-1], swapped):
        adder.run({"left": given, "right": right})
        received = adder_engine.given[-1]
        np.testing.assert_array_equal(received["left"], left)
        assert all(array.flags.c_contiguous and array.dtype.isnative for array in received.values())


def test_nan_is_left_alone(adder):
    assert np.isnan(adder.run({"left": ones(1, 4) * np.nan, "right": np.zeros(1, int)})["sum"]).all()


def message_and_hint(session, feeds):
    with pytest.raises(RunError) as caught:
        session.run(feeds)
    return caught.value.message, caught.value.hint


def test_error_on_wrong_input_shape(session):
    assert message_and_hint(session, {"images": ones(1, 3, 320, 256)}) == (
        "input 'images': expected float32 (1, 3, 416, 416), got (1, 3, 320, 256)",
        "build it with shape=(320, 256)",
    )
    _, hint = message_and_hint(session, {"images": ones(3, 416, 416)})
    assert hint == "add the batch axis: array[None]"
    _, hint = message_and_hint(session, {"images": ones(1, 1, 416, 416)})
    assert "edgekit build yolov3-tiny" in hint


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f8"])
def test_other_floats_reach_the_engine_as_float32(adder, adder_engine, dtype):
    left = np.linspace(-2, 2, 12).reshape(3, 4).astype(dtype)
    adder.run({"left": left, "right": np.arange(3)})
    received = adder_engine.given[-1]["left"]
    assert received.dtype == np.float32
    np.testing.assert_array_equal(received, left.astype(np.float32))


def test_error_on_wrong_input_dtype(session):
    assert message_and_hint(session, {"images": ones(1, 3, 416, 416, dtype=np.uint8)}) == (
        "input 'images': expected float32 (1, 3, 416, 416), got uint8 (1, 3, 416, 416)",
        "convert it: array.astype('float32')",
    )


def test_error_on_missing_and_unknown_inputs(session):
    message, hint = message_and_hint(session, {"image": ones(1, 3, 416, 416)})
    assert message == "unknown input 'image'" and hint == "did you mean images?"
    message, hint = message_and_hint(session, {})
    assert message == "input 'images': expected float32 (1, 3, 416, 416), got nothing"
    assert hint == "given inputs: none"


def test_error_on_a_value_that_is_not_an_array_or_not_a_dictionary(session):
    message, hint = message_and_hint(session, {"images": [1.0, 2.0]})
    assert message.endswith("got list") and "numpy.asarray" in hint
    message, hint = message_and_hint(session, ones(1, 3, 416, 416))
    assert message == "inputs: expected a dictionary of arrays by name, got ndarray" and hint == "names: images"


def test_error_when_a_named_dimension_has_two_sizes(adder):
    message, hint = message_and_hint(adder, {"left": ones(3, 4), "right": np.arange(2)})
    assert message == "input 'right': expected int64 (N,), got (2,): 'N' is 3 in another input"
    assert hint == "dimensions with the same name must have the same size in a run"


def test_closed_session_is_closed_once_and_refuses_to_run(engine, detector):
    session = Session(engine, detector)
    assert "images: float32 (1, 3, 416, 416)" in repr(session)
    session.close()
    session.close()
    assert engine.closed == 1 and "closed" in repr(session)
    message, _ = message_and_hint(session, {"images": ones(1, 3, 416, 416)})
    assert message == "'yolov3-tiny': expected an open session, got a closed one"


def test_context_closes_the_engine_after_an_error_too(engine, detector):
    with pytest.raises(RunError), Session(engine, detector) as session:
        session.run({})
    assert engine.closed == 1


def test_threads_take_turns_at_the_engine(adder, adder_engine):
    add = adder_engine.answer
    adder_engine.answer = lambda feeds: (time.sleep(0.002), add(feeds))[1]
    wrong = []

    def work(value):
        for _ in range(5):
            outputs = adder.run({"left": ones(2, 4), "right": np.full(2, value)})
            if not (outputs["sum"] == 1 + value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(adder_engine.given) == 30 and adder_engine.most_running == 1


def test_boxes_are_in_px_of_the_image(session, engine):
    found = session.detect(IMAGE)
    assert found.labels == ["dog", "car"]
    # cell 6 of 13: the middle; anchors 135 x 169 and 81 x 82 px of an input that is 416/768 of the image
    scale = 768 / 416
    dog = [384 - 135 / 2 * scale, 288 - 169 / 2 * scale, 384 + 135 / 2 * scale, 288 + 169 / 2 * scale]
    np.testing.assert_allclose(found.boxes[0], dog, rtol=1e-5)
    np.testing.assert_allclose(found.boxes[1, [0, 2]], [(88 - 40.5) * scale, (88 + 40.5) * scale], rtol=1e-5)
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp([-3.0, -1.0])), rtol=1e-5)
    assert engine.given[0]["images"].shape == (1, 3, 416, 416)


def test_files_and_pillow_images_and_arrays_give_the_same_detections(session, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    expected = session.detect(IMAGE)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(IMAGE)):
        np.testing.assert_array_equal(session.detect(image).boxes, expected.boxes)
    with pytest.raises(DataError):
        session.detect(tmp_path / "none.png")


def test_thresholds_are_the_recipe_s_unless_given(session):
    assert session.detect(IMAGE, score_threshold=0.8).labels == ["dog"]
    assert session.detect(IMAGE, score_threshold=0.99).labels == []
    assert session.detect(IMAGE, max_detections=1).labels == ["dog"]
    assert session.detect(IMAGE, iou_threshold=0.0).labels == ["dog", "car"]
    with pytest.raises(UsageError, match="iou_threshold: expected 0 to 1, got 2"):
        session.detect(IMAGE, iou_threshold=2)


def test_detect_is_preprocess_run_and_postprocess(session):
    feeds, placement = session.preprocess(IMAGE)
    detections = session.postprocess(session.run(feeds), placement)
    np.testing.assert_array_equal(detections.boxes, session.detect(IMAGE).boxes)


def test_error_names_the_task_of_an_engine_that_is_no_detector(adder):
    with pytest.raises(RunError, match="'adder': expected a detector, got an engine for task 'tensor'"):
        adder.detect(IMAGE)
    with pytest.raises(RunError, match="expected an engine that takes images, .* with the inputs left, right"):
        adder.preprocess(IMAGE)


def test_error_on_an_image_for_an_engine_with_a_larger_batch(engine, detector):
    engine.inputs = (TensorSpec("images", "float32", (4, 3, 416, 416)),)
    with pytest.raises(RunError, match="expected an engine with batch size 1, got one built for 4"):
        Session(engine, detector).detect(IMAGE)


@pytest.fixture
def bundle(detector, tmp_path):
    """A bundle of the null backend, on this machine."""
    from edgekit.engine.backend import BuildOptions, backend
    from edgekit.engine.bundle.manifest import this_machine

    onnx = pytest.importorskip("onnx")
    nodes = [onnx.helper.make_node("Identity", ["images"], ["same"])]
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 4, 4]) for n in ("images", "same")]
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "graph.onnx")
    folder = tmp_path / "bundle"
    folder.mkdir()
    target = backend("null")
    built = target.build(tmp_path / "graph.onnx", folder, BuildOptions(precision=detector.precision))
    seal(
        folder,
        msgspec.structs.replace(
            detector, engine=built.engine, backend_version=built.backend_version, machine=this_machine()
        ),
    )
    return folder


def test_session_of_a_bundle_runs_its_engine(bundle):
    with session_from_bundle(bundle) as session:
        outputs = session.run({"images": ones(1, 3, 4, 4)})
    assert {name: array.shape for name, array in outputs.items()} == {"same": (1, 3, 4, 4)}
    assert session.manifest.name == "yolov3-tiny"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_is_not_copied_and_stays_open(bundle, copied):
    with session_from_bundle(bundle) as session:
        with pytest.raises(UsageError, match="cannot be copied or pickled"):
            copied(session)
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copied(session._folder)
        gc.collect()
        assert (session._folder.at / "manifest.json").is_file()


def test_an_engine_of_half_inputs_and_outputs_detects_what_one_of_floats_does(make_bundle):
    def specs(dtype):
        return {
            "inputs": (TensorSpec("images", dtype, (1, 3, 64, 64)),),
            "outputs": (TensorSpec("head", dtype, (1, 21, 2, 2)),),
        }

    found = []
    for dtype in ("float32", "float16"):
        with session_from_bundle(make_bundle(dtype, **specs(dtype))) as session:
            feeds, _ = session.preprocess(np.full((48, 64, 3), 200, np.uint8))
            assert feeds["images"].dtype == dtype
            found.append(session.detect(np.full((48, 64, 3), 200, np.uint8), score_threshold=0.1))
    assert len(found[0]) > 0
    np.testing.assert_array_equal(found[0].boxes, found[1].boxes)
    assert found[1].boxes.dtype == np.float32


def test_notes_are_those_of_the_build_and_of_the_run(make_bundle):
    with session_from_bundle(make_bundle(notes=("built so",))) as session:
        session._engine.opened().notes = ["runs so"]
        assert session.notes == ("built so", "runs so")
    assert session.notes == ("built so",)
