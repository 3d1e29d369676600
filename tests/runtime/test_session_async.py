import gc
import json
import threading

import fake_tensorrt
import msgspec
import numpy as np
import pytest
from fake_cuda import FakeDriver

from edgekit.engine.tensorrt.runtime import load_engine
from edgekit.errors import RunError
from edgekit.runtime.session import Session


class Gate:
    """An engine that waits for a signal before it adds 1, and records the threads in which it ran."""

    def __init__(self, manifest):
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self.started, self.open, self.threads, self.closed = threading.Semaphore(0), threading.Semaphore(0), [], 0

    def run(self, feeds):
        self.threads.append(threading.current_thread())
        self.started.release()
        assert self.open.acquire(timeout=10)
        return {"sum": feeds["left"] + 1}

    def close(self):
        self.closed += 1


@pytest.fixture
def gate(tensors):
    return Gate(tensors)


@pytest.fixture
def gpu_session(tensors, tmp_path):
    """A session of a TensorRT engine on a fake GPU, which computes ``2 x + 1``."""
    driver = FakeDriver()
    plan = tmp_path / "engine.plan"
    plan.write_text(json.dumps({"inputs": {"x": [-1, 4]}, "profiles": [[[1, 4], [1, 4], [4, 4]]]}))
    engine = load_engine(fake_tensorrt.library(driver), plan, name="tensorrt", cuda=driver)
    with Session(engine, msgspec.structs.replace(tensors, inputs=engine.inputs, outputs=engine.outputs)) as session:
        yield session
    gc.collect()
    assert not driver.leaks()


def frame(value, rows=2):
    return {"left": np.full((rows, 4), value, np.float32), "right": np.zeros(rows, np.int64)}


def test_a_started_run_does_not_hold_up_its_caller(gate, tensors):
    with Session(gate, tensors) as session:
        pending = session.run_async(frame(1))
        assert gate.started.acquire(timeout=10) and not pending.done()
        gate.open.release()
        np.testing.assert_array_equal(pending.result()["sum"], frame(2)["left"])
        assert pending.done()
        assert gate.threads[0] is not threading.current_thread()


def test_arrays_may_be_changed_once_a_run_was_started(gate, tensors):
    with Session(gate, tensors) as session:
        feeds = frame(1)
        pending = session.run_async(feeds)
        feeds["left"][:] = 7
        gate.open.release()
        np.testing.assert_array_equal(pending.result()["sum"], frame(2)["left"])


def test_outputs_of_a_stream_come_in_order_from_one_thread(gate, tensors):
    gate.open.release(20)
    with Session(gate, tensors) as session:
        sums = [outputs["sum"][0, 0] for outputs in session.stream(frame(value) for value in range(20))]
    assert sums == list(range(1, 21))
    assert len(set(gate.threads)) == 1


def test_a_stream_takes_one_frame_ahead_and_no_more(gate, tensors):
    taken = []

    def endless():
        value = 0
        while True:
            taken.append(value)
            yield frame(value)
            value += 1

    gate.open.release(3)
    with Session(gate, tensors) as session:
        stream = session.stream(endless())
        assert taken == []
        assert next(stream)["sum"][0, 0] == 1 and taken == [0, 1]
        assert next(stream)["sum"][0, 0] == 2 and taken == [0, 1, 2]
        stream.close()


def test_an_empty_stream_gives_nothing(gate, tensors):
    with Session(gate, tensors) as session:
        assert list(session.stream([])) == []


def test_inputs_of_started_runs_are_checked_at_once(gate, tensors):
    with Session(gate, tensors) as session:
        with pytest.raises(RunError, match="input 'left': expected float32"):
            session.run_async({"left": np.zeros((2, 4), np.int64), "right": np.zeros(2, np.int64)})
        with pytest.raises(RunError, match="unknown input 'lef'"):
            next(session.stream([{"lef": np.zeros(1)}]))
    assert gate.threads == []


def test_an_error_in_a_started_run_is_raised_where_its_outputs_are_asked_for(adder, adder_engine):
    def fail(feeds):
        raise RunError("the engine is out of order")

    adder_engine.answer = fail
    pending = adder.run_async(frame(1))
    with pytest.raises(RunError, match="out of order"):
        pending.result()


def test_close_waits_for_the_run_that_has_begun_and_refuses_the_others(gate, tensors):
    session = Session(gate, tensors)
    begun, waiting = session.run_async(frame(1)), session.run_async(frame(2))
    assert gate.started.acquire(timeout=10)
    closing = threading.Thread(target=session.close)
    closing.start()
    assert gate.closed == 0
    gate.open.release()
    closing.join(timeout=10)
    assert not closing.is_alive() and gate.closed == 1
    np.testing.assert_array_equal(begun.result()["sum"], frame(2)["left"])
    with pytest.raises(RunError, match="expected an open session, got a closed one"):
        waiting.result()
    with pytest.raises(RunError, match="closed"):
        session.run_async(frame(1))
    assert len(gate.threads) == 1


def test_a_session_may_be_closed_by_what_waits_for_its_run(gate, tensors):
    session = Session(gate, tensors)
    gate.open.release()
    closed = threading.Event()
    session.run_async(frame(1)).add_done_callback(lambda run: (session.close(), closed.set()))
    assert closed.wait(10) and gate.closed == 1


def test_a_gpu_s_stream_keeps_order_with_batches_that_change(gpu_session):
    frames = [np.full((1 + value % 4, 4), value, np.float32) for value in range(12)]
    outputs = list(gpu_session.stream({"x": x} for x in frames))
    for x, out in zip(frames, outputs, strict=True):
        np.testing.assert_array_equal(out["x_out"], 2 * x + 1)


def test_a_gpu_s_runs_need_no_thread(gpu_session):
    before = threading.active_count()
    runs = [gpu_session.run_async({"x": np.full((1, 4), value, np.float32)}) for value in range(3)]
    assert threading.active_count() == before
    gpu_session.close()
    assert [run.result()["x_out"][0, 0] for run in runs] == [1, 3, 5]


def test_threads_share_a_gpu_s_session(gpu_session):
    wrong = []

    def work(value):
        x = np.full((1 + value % 4, 4), value, np.float32)
        for _ in range(10):
            pending = gpu_session.run_async({"x": x})
            for outputs in (gpu_session.run({"x": x}), pending.result()):
                if not (outputs["x_out"] == 2 * x + 1).all():
                    wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
