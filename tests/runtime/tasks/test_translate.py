from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.vocabulary import BEGIN, END, PAD, SPECIAL_TOKENS, UNKNOWN
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.translate import greedy_tokens, source_from_texts
from edgekit.specs import TensorSpec

VOCABULARY = (*SPECIAL_TOKENS, *"abc")
LENGTH = 6


def reverses(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A translator that writes the source backwards, and looks at what it has written to know where it is."""
    source, target = feeds["source"], feeds["target"]
    logits = np.zeros((*target.shape, len(VOCABULARY)), np.float32)
    for row, (read, written) in enumerate(zip(source, target, strict=True)):
        assert written[0] == BEGIN
        answer = [*read[: np.flatnonzero(read == END)[0]][::-1], END]
        for place in range(len(written)):
            known = written[1 : place + 1].tolist() == answer[:place]
            logits[row, place, answer[place] if known and place < len(answer) else UNKNOWN] = 1.0
    return {"logits": logits}


@pytest.fixture
def translator(tensors: Manifest) -> Manifest:
    return msgspec.structs.replace(
        tensors,
        name="reverser",
        task="translate",
        inputs=(TensorSpec("source", "int64", (1, LENGTH)), TensorSpec("target", "int64", (1, LENGTH))),
        outputs=(TensorSpec("logits", "float32", (1, LENGTH, len(VOCABULARY))),),
        labels=VOCABULARY,
    )


class Engine:
    notes = ()

    def __init__(self, manifest: Manifest, answer: Callable = reverses) -> None:
        self.inputs, self.outputs, self.answer, self.runs = manifest.inputs, manifest.outputs, answer, 0

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        return self.answer(feeds)

    def close(self) -> None:
        return None


@given(st.lists(st.lists(st.integers(4, 6), max_size=LENGTH - 1), min_size=1, max_size=4))
def test_every_text_of_a_batch_is_written_to_its_own_end(texts: list[list[int]]) -> None:
    source = np.array([[*text, END, *[PAD] * (LENGTH - 1 - len(text))] for text in texts])
    assert greedy_tokens(reverses, source, LENGTH) == [text[::-1] for text in texts]


def test_a_text_without_an_end_has_as_many_tokens_as_there_is_room_for() -> None:
    def endless(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        logits = np.zeros((1, LENGTH, len(VOCABULARY)), np.float32)
        logits[..., 5] = 1
        return {"logits": logits}

    assert greedy_tokens(endless, np.zeros((1, LENGTH), np.int64), LENGTH) == [[5] * LENGTH]


def test_a_session_translates_a_text(translator: Manifest) -> None:
    engine = Engine(translator)
    with Session(engine, translator) as session:
        assert session.translate("aabc") == "cbaa"
        assert engine.runs == 5  # a run a token, and one for the end
        assert session.translate("") == ""


def test_tokens_that_the_vocabulary_lacks_are_unknown(translator: Manifest) -> None:
    with Session(Engine(translator), translator) as session:
        assert session.translate("axb") == "b\N{REPLACEMENT CHARACTER}a"
    assert source_from_texts(["x"], translator.inputs[0], translator).tolist() == [[UNKNOWN, END, PAD, PAD, PAD, PAD]]


def test_error_on_a_text_that_is_too_long(translator: Manifest) -> None:
    with (
        Session(Engine(translator), translator) as session,
        pytest.raises(RunError, match="at most 5 tokens, got 6: 'aaaaaa'"),
    ):
        session.translate("aaaaaa")


def test_error_on_an_engine_without_a_vocabulary(translator: Manifest) -> None:
    bare = msgspec.structs.replace(translator, labels=())
    with Session(Engine(bare), bare) as session, pytest.raises(RunError, match="expected the vocabulary as labels"):
        session.translate("a")


def test_error_on_an_engine_for_another_task(adder: Session) -> None:
    with pytest.raises(RunError, match="expected a translator, got an engine for task 'tensor'"):
        adder.translate("a")


def test_error_on_inputs_of_other_names(translator: Manifest) -> None:
    renamed = msgspec.structs.replace(translator, inputs=(TensorSpec("x", "int64", (1, 6)), translator.inputs[1]))
    with Session(Engine(renamed), renamed) as session, pytest.raises(RunError, match="inputs 'source' and 'target'"):
        session.translate("a")


def test_error_on_logits_that_are_no_numbers_or_of_another_shape() -> None:
    source = np.zeros((1, LENGTH), np.int64)
    with pytest.raises(RunError, match="got NaN at position 0"):
        greedy_tokens(lambda feeds: {"logits": np.full((1, LENGTH, 7), np.nan, np.float32)}, source, LENGTH)
    with pytest.raises(RunError, match=r"expected \(1, 6, vocabulary\), got logits \(1, 7\)"):
        greedy_tokens(lambda feeds: {"logits": np.zeros((1, 7), np.float32)}, source, LENGTH)
