"""The rule for DETR and its successors, whose queries have a box in one output and logits in another."""

from __future__ import annotations

from edgekit.recipe.heads import Detr
from edgekit.recognition.facts import Facts, Output, is_unit, shown
from edgekit.recognition.verdict import Verdict

__all__ = ["MAX_ROWS", "detr_pair"]

MAX_ROWS = 1000
"""Detectors that select their boxes themselves return 100 to 900."""
MOST_QUERIES = 0.6
"""Share of the queries of an image with which a DETR detects nothing; that of trained models is far above."""

IMAGENET = {"resize": "stretch", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RF_DETR_BOXES = "dets"
"""Name of the boxes in exports of RF-DETR, which takes normalized images."""


def detr_pair(facts: Facts) -> list[Verdict]:
    """Returns the heads with boxes in one output and logits in another; several if the activation is not clear."""
    for boxes in facts.outputs:
        for logits in facts.outputs:
            alike = boxes.value.ndim == logits.value.ndim == 3 and boxes.shape[:2] == logits.shape[:2]
            if boxes is logits or not alike or boxes.shape[2] != 4 or not is_unit(boxes.value):
                continue
            if boxes.shape[1] > MAX_ROWS or len(facts.outputs) > 4:
                continue
            # What is written cell by cell until the end of a table, as SLANet's, is a text with places: not queries.
            if boxes.stepwise:
                continue
            return _of_queries(facts, boxes, logits)
    return []


def _of_queries(facts: Facts, boxes: Output, logits: Output) -> list[Verdict]:
    values = logits.value[0]
    outputs = (f"{boxes.name} {shown(boxes)} in 0..1", f"{logits.name} {shown(logits)}")

    def verdict(evidence: str, activation: str, *, sure: bool = True) -> Verdict:
        head = Detr(
            boxes=boxes.name,
            logits=logits.name,
            activation=activation,  # type: ignore[arg-type]
            background="last" if activation == "softmax" else "none",
        )
        # RT-DETR and its successors select their queries, and take images as they are; RF-DETR selects them too.
        plain = logits.selected and boxes.name != RF_DETR_BOXES
        return Verdict(
            head=head,
            evidence=(*outputs, evidence),
            preprocess={"resize": "stretch"} if plain else IMAGENET,
            preprocess_of="RT-DETR's" if plain else "DETR's",
            sure=sure,
        )

    if is_unit(values):
        return [verdict("scores in 0..1", "none")]
    # Of most queries, nothing is detected: a softmax gives them to the background, sigmoids are all below 0.5.
    last = values.shape[1] > 1 and (values.argmax(axis=1) == values.shape[1] - 1).mean() > MOST_QUERIES
    negative = (values.max(axis=1) < 0).mean() > MOST_QUERIES
    named = len(facts.metadata.names)
    if named == values.shape[1] - 1 > 0 or (last and not negative and not logits.selected):
        why = "the last slot is the likeliest for most queries" if last else "one slot more than class names"
        return [verdict(f"{why}: the background of a softmax", "softmax")]
    if not last:
        if negative or named == values.shape[1]:
            why = "the logits of most queries are negative" if negative else "as many slots as class names"
            return [verdict(f"{why}: a sigmoid for each class", "sigmoid")]
        if logits.selected and boxes.selected:
            return [verdict("queries that are selected by their scores, each of which is a sigmoid", "sigmoid")]
    return [
        verdict("if logits go through a sigmoid each (activation=sigmoid)", "sigmoid", sure=False),
        verdict(
            "if they go through a softmax, and the last slot is the background (activation=softmax background=last)",
            "softmax",
            sure=False,
        ),
    ]
