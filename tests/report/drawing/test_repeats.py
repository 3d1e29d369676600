from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekit.report.drawing.repeats import Run, runs_of_repeats


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_runs_cover_a_sequence_and_say_what_repeats(sequence: list[str]) -> None:
    end = 0
    for run in runs_of_repeats(sequence):
        assert run.start == end
        end += run.period * run.times
        pieces = {tuple(sequence[i : i + run.period]) for i in range(run.start, end, run.period)}
        assert len(pieces) == 1
    assert end == len(sequence)


def test_the_run_that_covers_most_is_taken_with_its_shortest_period() -> None:
    assert runs_of_repeats("abcbcbcd") == [Run(0, 1, 1), Run(1, 2, 3), Run(7, 1, 1)]
    assert runs_of_repeats("aaaa") == [Run(0, 1, 4)]
