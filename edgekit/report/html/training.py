"""Renders a training as an HTML page: curves of the losses, the figures and the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgekit.evaluation.evaluate import FIGURES
from edgekit.report.html.charts import Curve, curves
from edgekit.report.html.elements import (
    Card,
    Cell,
    both_widths,
    footer,
    heading,
    legend,
    page,
    section,
    summary,
    table,
)

__all__ = ["html_from_epochs"]

COLOURS = ("two", "pre", "three", "four")
LOG_FROM = 20.0


class EpochFigures(Protocol):
    """The figures of an epoch; see `edgekit.training.fit.Epoch`."""

    @property
    def epoch(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def test_loss(self) -> float: ...
    @property
    def figures(self) -> dict[str, float]: ...
    @property
    def seconds(self) -> float: ...


def html_from_epochs(epochs: Sequence[EpochFigures], title: str, weights: str) -> str:
    """Renders the epochs of a training.

    Args:
        epochs: the epochs, at least one.
        title: the model and the data set.
        weights: name of the weights file.
    """
    last = epochs[-1]
    name = next(iter(last.figures), "")
    main = [(FIGURES[name].title, _value(name, last))] if name else []
    body = [
        *summary(
            title,
            f"training, {len(epochs)} epochs, weights in {weights}",
            [("loss", f"{last.loss:.4g}"), *main],
            _sentence(epochs, name),
            [
                *(Card(FIGURES[each].title, _value(each, last), "test set, last epoch") for each in last.figures),
                Card("loss", f"{last.loss:.4g}", "training set, last epoch"),
                Card("test loss", f"{last.test_loss:.4g}", "last epoch"),
                Card("time", f"{sum(each.seconds for each in epochs):,.0f} s", "all epochs"),
            ],
        ),
        _chart("Loss", {"training": [e.loss for e in epochs], "test": [e.test_loss for e in epochs]}, epochs, "loss"),
        *(
            _chart(
                heading(FIGURES[each].title), {"test": [e.figures[each] for e in epochs]}, epochs, FIGURES[each].title
            )
            for each in last.figures
        ),
        _chart("Learning rate", {"learning rate": [e.lr for e in epochs]}, epochs, "learning rate"),
        section("Epochs", "", _table(epochs), kind="long"),
        footer("Trained by edgekit train."),
    ]
    return page(f"{title}: training", body)


def _sentence(epochs: Sequence[EpochFigures], name: str) -> str:
    last = epochs[-1]
    text = f"The loss went from {epochs[0].loss:.4g} to {last.loss:.4g} in {len(epochs)} epochs"
    if not name:
        return f"{text}."
    figure = FIGURES[name]
    choose = max if figure.more_is_better else min
    best = choose(epochs, key=lambda each: each.figures[name])
    where = "the last epoch" if best is last else f"epoch {best.epoch}"
    return f"{text}; {figure.title} is {_value(name, last)}, the best was {_value(name, best)} in {where}."


def _value(name: str, epoch: EpochFigures) -> str:
    value = epoch.figures[name]
    return f"{100 * value:.2f} %" if FIGURES[name].is_share else f"{value:.4g}"


def _chart(title: str, lines: dict[str, list[float]], epochs: Sequence[EpochFigures], label: str) -> str:
    numbers = [each.epoch for each in epochs]
    values = [value for line in lines.values() for value in line]
    drawn = [
        Curve(name, colour, list(zip(numbers, line, strict=True)))
        for colour, (name, line) in zip(COLOURS, lines.items(), strict=False)
    ]
    log = label == "loss" and min(values) > 0 and max(values) > LOG_FROM * min(values)
    zero = max(values) > 2 * min(values)
    chart = both_widths(
        lambda width: curves(drawn, width, x_label="epoch", y_label=label, log_y=log, zero=zero, whole=True)
    )
    return section(title, "", chart + (legend([(line.colour, line.name) for line in drawn]) if len(drawn) > 1 else ""))


def _table(epochs: Sequence[EpochFigures]) -> str:
    names = list(epochs[-1].figures)
    rows = [
        [
            Cell(str(each.epoch), each.epoch),
            *(Cell(_value(name, each), each.figures[name]) for name in names),
            Cell(f"{each.loss:.4g}", each.loss),
            Cell(f"{each.test_loss:.4g}", each.test_loss),
            Cell(f"{each.lr:.3g}", each.lr),
            Cell(f"{each.seconds:.1f}", each.seconds),
        ]
        for each in epochs
    ]
    return table(["epoch", *(FIGURES[name].title for name in names), "loss", "test loss", "rate", "s"], rows, "Epochs")
