"""``edgekit eval``: measures the accuracy of engines on a data set, or of a model in FP32 and INT8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options.completion import complete_data, complete_models, complete_targets
from edgekit.cli.options.hinted import Choice
from edgekit.cli.options.parameters import Real, threads_option
from edgekit.cli.options.paths import OutputFile
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.limits import MAX_COUNT
from edgekit.text import json_bytes

if TYPE_CHECKING:
    from edgekit.data.examples import DataSet, Split
    from edgekit.evaluation.evaluate import Evaluation
    from edgekit.progress import Progress
    from edgekit.recipe.schema import Task

__all__ = ["evaluate"]

EPILOG = """\b
Examples:
  edgekit eval lenet --weights lenet.safetensors --data digits
  edgekit eval engines/lenet-int8-cpu --data digits --limit 100 --json
  edgekit eval fp32 int8 --data coco:val2017 --per-class
"""
MODEL_OPTIONS = ("weights", "calib", "calib_images", "target")


@click.command("eval", epilog=EPILOG, short_help="Measure the accuracy of an engine or a model.")
@click.argument("engines", metavar="ENGINE|MODEL...", nargs=-1, required=True, shell_complete=complete_models)
@click.option(
    "--data",
    required=True,
    shell_complete=complete_data,
    metavar="SET",
    help="Data set: digits, scenes, spelling, or a path; the prefix folder:, idx:, coco:, voc:, yolo:, csv: or text: "
    "sets its format.",
)
@click.option(
    "--column", metavar="NAME", help="Target column of a CSV table.  [default: label, class or target, else the last]"
)
@click.option(
    "--split",
    type=Choice(["test", "val", "train"]),
    default="test",
    show_default=True,
    help="Split of the data set; test is val if there is no test split, and a note says so.",
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_COUNT), metavar="N", help="Use at most N examples, spread over the data set."
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Class names of the engines: a file with one per line, a data YAML or COCO JSON.  [default: their own]",
)
@click.option("--weights", metavar="FILE|NAME", help="Weights of MODEL: a file, or a published set.")
@click.option(
    "--calib",
    shell_complete=complete_data,
    metavar="DIR|SET",
    help="Calibration data of MODEL.  [default: the training split of SET]",
)
@click.option("--calib-images", type=click.IntRange(1, MAX_COUNT), metavar="N", help="Calibrate on at most N examples.")
@click.option(
    "--target", shell_complete=complete_targets, metavar="NAME", help="Backend of MODEL's engines.  [default: cpu]"
)
@click.option(
    "--score-threshold",
    type=Real(0, 1),
    metavar="X",
    help="Use detections with a score above X.  [default: 0.001, for the whole precision-recall curve]",
)
@click.option(
    "--multi-label/--one-label",
    default=None,
    help="Let a box have every class with a score above the threshold, as precision-recall curves want it, or only the "
    "best one, as `edgekit run`.  [default: multi-label]",
)
@click.option("--per-class", is_flag=True, help="Show figures per class too.")
@click.option("--html", type=OutputFile(".html", ".htm"), metavar="FILE", help="Write the figures as an HTML page.")
@json_options("the figures")
@threads_option()
def evaluate(
    engines: tuple[str, ...],
    data: str,
    split: Split,
    limit: int | None,
    score_threshold: float | None,
    multi_label: bool | None,
    labels: str | None,
    threads: int,
    per_class: bool,
    html: Path | None,
    json: JsonOutput,
    **options: Any,
) -> None:
    """Measure the accuracy of engines, or of a model, on a data set.

    ENGINE is a folder that `edgekit build` wrote; with several, each is compared with the first. MODEL is a name from
    `edgekit models`: it is built in FP32 and in INT8, calibrated on the training split, and both are compared.

    The figures are accuracy and top-5 accuracy for classifiers; COCO's mean average precision for detectors, of boxes,
    masks, key points or rotated boxes, and the median score of the objects that are found; squared errors for
    regression; and token and sequence accuracy for translation.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.data.label_files import labels_from_file
    from edgekit.evaluation.evaluate import SCORE_THRESHOLD, evaluate_bundle

    names = () if labels is None else labels_from_file(Path(labels))
    examples = _fitting(engines, data, split, names, options)
    detecting = {"--score-threshold": score_threshold, "--multi-label" if multi_label else "--one-label": multi_label}
    _check_options(examples.task, per_class=per_class, detecting=detecting)
    with progress_on_stderr() as progress, _built(engines, data, options, threads, progress) as paths:
        found = [
            evaluate_bundle(
                path,
                data=examples,
                split=split,
                limit=limit,
                score_threshold=SCORE_THRESHOLD if score_threshold is None else score_threshold,
                multi_label=multi_label is not False,
                labels=names,
                threads=threads,
                progress=progress,
            )
            for path in paths
        ]
    if html is not None:
        _write_page(html, found, paths, examples)
    if json.wanted:
        json.write(_json_from(found, paths))
    if not json.printed:
        _print_tables(found, paths, per_class=per_class)


def _fitting(
    words: tuple[str, ...], data: str, split: Split, names: tuple[str, ...], options: dict[str, Any]
) -> DataSet:
    """Returns the data set; checks before a model is built that the data set fits it."""
    from edgekit.data.examples import data_set
    from edgekit.evaluation.evaluators.choose import measures
    from edgekit.evaluation.labels import model_classes_from_labels

    task, labels = _task_and_labels(words[0], options["weights"])
    labels = names or labels
    examples = data_set(data, split=split, task=task, target=options["column"])
    if labels and task and measures()[task].class_figure:
        model_classes_from_labels(labels, examples.labels, name=examples.name)
    return examples


def _task_and_labels(word: str, weights: str | None) -> tuple[Task | None, tuple[str, ...]]:
    """Returns the task of an engine or a model, if it has one, and the classes of a model that is not built yet."""
    from edgekit.engine.bundle.manifest import read_manifest
    from edgekit.evaluation.evaluators.choose import measures
    from edgekit.models.cfg.recipe import recipe_from_cfg
    from edgekit.models.weights.origin import origin_of_weights
    from edgekit.pipeline.model_kind import kind_of
    from edgekit.recipe.schema import load_recipe

    task: str = "tensor"
    labels: tuple[str, ...] = ()
    if _is_engine(word):
        task = read_manifest(Path(word)).task
    elif (kind := kind_of(word, or_engine=True)) in ("recipe", "cfg"):
        recipe = load_recipe(word) if kind == "recipe" else recipe_from_cfg(Path(word))
        task, labels = recipe.task, recipe.labels.names
        if weights is not None and Path(weights).is_file():
            labels = origin_of_weights(weights).labels or labels
    measure = measures().get(task)
    return (None if measure is None else measure.task), labels


def _check_options(task: Task, *, per_class: bool, detecting: dict[str, Any]) -> None:
    """Raises `UsageError` for options that have no effect for the task."""
    from edgekit.errors import UsageError
    from edgekit.evaluation.evaluators.choose import measures

    with_scores = [name for name, measure in measures().items() if measure.has_scores]
    for name, value in detecting.items():
        if value is not None and task not in with_scores:
            raise UsageError(
                f"{name}: expected a task with scores, {_quoted(with_scores)}, got '{task}'",
                hint=f"leave {name} out",
            )
    with_classes = [name for name, measure in measures().items() if measure.class_figure]
    if per_class and task not in with_classes:
        raise UsageError(
            f"--per-class: expected a task with classes, {_quoted(with_classes)}, got '{task}'",
            hint="leave --per-class out",
        )


def _quoted(names: list[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _is_engine(word: str) -> bool:
    return (Path(word) / "manifest.json").is_file()


@contextmanager
def _built(
    words: tuple[str, ...], data: str, options: dict[str, Any], threads: int, progress: Progress
) -> Iterator[list[Path]]:
    """Yields the folders of the engines; builds a model into two temporary ones."""
    from edgekit.errors import UsageError
    from edgekit.pipeline.build import build
    from edgekit.pipeline.model_kind import kind_of
    from edgekit.scratch import scratch_folder

    models = [word for word in words if not _is_engine(word)]
    given = [f"--{name.replace('_', '-')}" for name in MODEL_OPTIONS if options[name] is not None]
    if not models:
        if given:
            raise UsageError(f"{given[0]}: expected a model, got engines, which are already built")
        yield [Path(word) for word in words]
        return
    for model in models:
        kind_of(model, or_engine=True)
    if len(words) > 1:
        raise UsageError(
            f"expected one model or any number of engines, got {len(words)} names, of which '{models[0]}' is a model",
            hint="build each model with `edgekit build`, then compare the engines",
        )
    with scratch_folder() as folder:
        common = {
            "weights": options["weights"],
            "target": options["target"] or "cpu",
            "threads": threads,
            "profile": False,
            "progress": progress,
        }
        calib = {"calib": options["calib"] or data, "calib_images": options["calib_images"]}
        if options["calib"] is None:
            calib["calib_column"] = options["column"]
        yield [
            build(models[0], precision="fp32", output=folder / "fp32", **common),
            build(models[0], precision="int8", output=folder / "int8", **common, **calib),
        ]


def _json_from(found: list[Evaluation], paths: list[Path]) -> bytes:
    import msgspec

    from edgekit.cli.eval.table import differences

    engines = []
    for path, evaluation in zip(paths, found, strict=True):
        place = str(path) if path.exists() else None  # a model's engines were temporary
        figures = msgspec.to_builtins(evaluation)
        engines.append({"engine": place, **figures, "difference": differences(found[0], evaluation)})
    first = found[0]
    content = {"data": first.data, "split": first.split, "task": first.task, "engines": engines}
    # The encoder writes NaN as null, because JSON has no NaN.
    return json_bytes(content, indent=1)


def _write_page(file: Path, found: list[Evaluation], paths: list[Path], examples: DataSet) -> None:
    from edgekit.cli.eval.table import headings
    from edgekit.cli.output import write_file
    from edgekit.report.html.evaluation import html_from_evaluations

    names = headings(found, [path.name for path in paths])[: len(found)]
    write_file(file, html_from_evaluations(found, names, examples).encode())


def _print_tables(found: list[Evaluation], paths: list[Path], *, per_class: bool) -> None:

    from edgekit.cli.eval.table import class_table, print_summary

    console = terminal()
    names = [path.name for path in paths]
    print_summary(console, found, names)
    if per_class and found[0].per_class:
        console.print(class_table(found, names))
