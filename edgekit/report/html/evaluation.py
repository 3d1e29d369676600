"""Renders the accuracy of engines as an HTML page: figures, classes, confusion, curves, and the worst examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgekit.data.examples import DataSet
from edgekit.evaluation.evaluate import FIGURES, Evaluation
from edgekit.evaluation.evaluators.base import Details, Figure, Mistake
from edgekit.evaluation.evaluators.choose import measures
from edgekit.report.html.charts import Curve, curves
from edgekit.report.html.elements import (
    Card,
    Cell,
    both_widths,
    caution,
    footer,
    heading,
    legend,
    page,
    section,
    summary,
    table,
)
from edgekit.report.html.pictures import picture, pictures
from edgekit.runtime.detections import Detections
from edgekit.text import html_text as escape

__all__ = ["html_from_evaluations"]

COLOURS = ("one", "two", "three", "four")
MATRIX_CLASSES = 16
"""Most classes of a confusion matrix; with more, the most frequent confusions are listed."""
CONFUSIONS = 20
PICTURES = 8
NOTHING = "nothing"


def html_from_evaluations(found: Sequence[Evaluation], names: Sequence[str], examples: DataSet) -> str:
    """Renders the evaluation of engines on one data set.

    Args:
        found: one evaluation per engine.
        names: names of the engines.
        examples: the data set, for the pictures of the worst examples.
    """
    first, last = found[0], found[-1]
    body = [
        *summary(
            first.name,
            f"accuracy on {first.data}, {first.split}: {first.examples:,} examples",
            [(name, _main_figure(each)) for name, each in zip(names, found, strict=True)],
            _sentence(found, names),
            [
                Card(FIGURES[name].title, _value(value, FIGURES[name]), names[-1], "main" if not index else "")
                for index, (name, value) in enumerate(last.figures.items())
            ],
        ),
        caution("Please note", list(dict.fromkeys(note for each in found for note in each.notes))),
        section("Figures", "", _figures(found, names)),
        _curves_section(found, names),
        _classes_section(found, names),
        *(
            _confusion_section(each.details, name if len(found) > 1 else "")
            for name, each in zip(names, found, strict=True)
        ),
        _mistakes_section(last, names[-1] if len(found) > 1 else "", examples),
        footer("Measured by edgekit eval."),
    ]
    return page(f"{first.name}: accuracy", body)


def _main_figure(evaluation: Evaluation) -> str:
    name, value = next(iter(evaluation.figures.items()))
    return f"{FIGURES[name].title} {_value(value, FIGURES[name])}"


def _sentence(found: Sequence[Evaluation], names: Sequence[str]) -> str:
    name = next(iter(found[0].figures))
    figure, value = FIGURES[name], found[-1].figures[name]
    text = f"{heading(figure.title)} of {names[-1]}: {_value(value, figure)}"
    if len(found) < 2:
        return f"{text}."
    change = value - found[0].figures[name]
    if not change or math.isnan(change):
        return f"{text}, the same as {names[0]}."
    size = f"{100 * abs(change):.2f} points" if figure.is_share else f"{abs(change):.3g}"
    return f"{text}, {size} {'lower' if change < 0 else 'higher'} than {names[0]}."


def _value(value: float, figure: Figure) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:.2f} %" if figure.is_share else f"{value:.4g}"


def _figures(found: Sequence[Evaluation], names: Sequence[str]) -> str:
    rows = [
        [Cell(FIGURES[name].title), *(Cell(_value(each.figures.get(name, math.nan), FIGURES[name])) for each in found)]
        for name in found[0].figures
    ]
    rows.append([Cell("examples per second"), *(Cell(f"{each.examples_per_s:,.1f}") for each in found)])
    rows.append([Cell("examples, and skipped"), *(Cell(f"{each.examples:,}, {len(each.skipped)}") for each in found)])
    return table(["", *names], rows, "Figures", sorts=False)


def _curves_section(found: Sequence[Evaluation], names: Sequence[str]) -> str:
    lines = [
        Curve(
            f"{f'{name}, ' if len(found) > 1 else ''}{threshold}{' (dashed)' if dashed else ''}",
            COLOURS[(index + (len(found) == 1)) % len(COLOURS)],
            [(i / 100, value) for i, value in enumerate(curve) if not math.isnan(value)],
            dashed=bool(dashed),
        )
        for index, (name, each) in enumerate(zip(names, found, strict=True))
        for dashed, (threshold, curve) in enumerate(each.details.curves.items())
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    chart = both_widths(lambda width: curves(lines, width, x_label="recall", y_label="precision"))
    text = "The mean over all classes, as COCO interpolates it; the area below a line is its mean average precision."
    return section("Precision and recall", text, chart + legend([(line.colour, line.name) for line in lines]))


def _classes_section(found: Sequence[Evaluation], names: Sequence[str]) -> str:
    rows, without = [], 0
    for same in zip(*(each.per_class for each in found), strict=True):
        if not same[0].count:
            without += 1
            continue
        values = [row.value for row in same]
        cells = [
            Cell(
                "–" if math.isnan(v) else f"{100 * v:.1f} %", -1.0 if math.isnan(v) else v, 0.0 if math.isnan(v) else v
            )
            for v in values
        ]
        change = values[-1] - values[0]
        known = len(found) > 1 and not math.isnan(change)
        differs = [Cell(f"{100 * change:+.1f}" if known else "–", change if known else 0.0)] if len(found) > 1 else []
        rows.append([Cell(same[0].label), Cell(f"{same[0].count:,}", same[0].count), *cells, *differs])
    title = measures()[found[0].task].class_figure
    columns = ["class", "count", *names, *(["points"] if len(found) > 1 else [])]
    return (
        section("Classes", f"{title}. Click a column to sort.", table(columns, rows, "Classes"), kind="long")
        if rows
        else ""
    )


def _confusion_section(details: Details, name: str) -> str:
    if not details.confusion:
        return ""
    used = sorted({kind for a, b, _ in details.confusion for kind in (a, b) if kind >= 0})
    nothing = any(-1 in (a, b) for a, b, _ in details.confusion)
    what = f"Confusion{f', {name}' if name else ''}"
    text = "Rows are the classes of the data set, columns what the engine says."
    if nothing:
        text += f" A box counts as an object if the IoU is 0.5 or more; '{NOTHING}' is a missed object or a false box."
    label = {i: details.labels[i] if i < len(details.labels) else str(i) for i in used} | {-1: NOTHING}
    if len(used) > MATRIX_CLASSES:
        wrong = sorted((each for each in details.confusion if each[0] != each[1]), key=lambda each: -each[2])
        rows = [[Cell(label[a]), Cell(label[b]), Cell(f"{n:,}", n)] for a, b, n in wrong[:CONFUSIONS]]
        return section(
            what,
            f"The most frequent of {len(wrong)} kinds of mistakes.",
            table(["is", "taken for", "count"], rows, what),
        )
    kinds = [*used, *([-1] if nothing else [])]
    counts = {(a, b): n for a, b, n in details.confusion}
    totals = {a: sum(counts.get((a, b), 0) for b in kinds) for a in kinds}
    head = "".join(f'<th scope="col">{escape(label[b])}</th>' for b in kinds)
    body = "".join(
        f'<tr><th scope="row">{escape(label[a])}</th>'
        + "".join(_matrix_cell(counts.get((a, b), 0), totals[a], right=a == b) for b in kinds)
        + "</tr>"
        for a in kinds
    )
    area = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(what)}">'
    return section(
        what,
        text,
        f'{area}<table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>',
    )


def _matrix_cell(count: int, total: int, *, right: bool) -> str:
    strength = 0.12 + 0.6 * count / total if count and total else 0.0
    style = f' style="--strength:{100 * strength:.0f}%"' if count else ""
    return f'<td class="{"right" if right else "wrong"}"{style}>{count or ""}</td>'


def _mistakes_section(evaluation: Evaluation, name: str, examples: DataSet) -> str:
    figures = [_mistake(each, evaluation, examples) for each in evaluation.details.mistakes[:PICTURES]]
    title = f"Worst examples{f', {name}' if name else ''}"
    return (
        section(title, "", pictures([figure for figure in figures if figure], pairs=False), kind="long")
        if any(figures)
        else ""
    )


def _mistake(mistake: Mistake, evaluation: Evaluation, examples: DataSet) -> str:
    pixels = examples[mistake.index].input
    if isinstance(pixels, str) or pixels.dtype != np.uint8:
        return ""
    pixels = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    found = Detections(
        np.asarray(mistake.boxes, np.float32).reshape(-1, 4),
        np.asarray(mistake.scores, np.float32),
        np.asarray(mistake.classes, np.int64),
        evaluation.details.labels,
    )
    return picture(np.ascontiguousarray(pixels), found, f"{mistake.id}: {mistake.text}")
