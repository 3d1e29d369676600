"""Reads YOLO text files: one per image, one box per line, ``class cx cy width height`` as fractions of the image."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import quote, unquote

from edgekit.data.detection_set import AnnotatedImage, BoxList, Corners, DetectionSet, Tally
from edgekit.data.examples import Boxes, Choice, Split
from edgekit.data.files import AnyCase, Finder, child, files_in
from edgekit.data.formats.corner_boxes import CornerBoxes
from edgekit.data.formats.text_lines import text_lines
from edgekit.data.formats.unsupported import program_of_line
from edgekit.data.formats.yolo_classes import ClassNumbers
from edgekit.data.formats.yolo_long_lines import LongLines
from edgekit.data.formats.yolo_source import NAME_FILES, YoloSource, yolo_source
from edgekit.data.images import image_suffixes, images_below
from edgekit.data.shapes import ObjectShape, needed_shape
from edgekit.data.splits import available_split, notes_on_drawn, part_of, require_drawn, split_from_folder
from edgekit.errors import DataError
from edgekit.storage import first_file
from edgekit.text import some_of

__all__ = ["yolo_from_path"]

# Folders of images, whose labels are in the same place below labels; the last three are those of Darknet's data.c.
IMAGE_FOLDERS = ("images", "jpegimages", "raw")
_LONG_LINES = (
    "lines of predictions end with a score or a track id, which labels do not have; keypoints need kpt_shape in "
    "data.yaml; outlines have an even number of coordinates, six or more"
)
# Ultralytics accepts fractions from and up to these, to allow for rounding.
_MIN_FRACTION, _MAX_FRACTION = -0.01, 1.01


def yolo_from_path(path: Path, choice: Choice) -> DetectionSet:
    """Opens a ``data.yaml`` or ``obj.data``, or a folder with one of them, with ``images`` and ``labels``, or of both.

    Paths in the files may be relative to the file, to its parent folders or to the working directory, may be those of
    another machine, and may have backslashes. The label file of ``images/train/1.jpg`` or ``JPEGImages/train/1.jpg`` is
    ``labels/train/1.txt``, or ``1.txt`` next to the image. An image without a label file has no objects, as in Darknet
    and Ultralytics; a note gives their number. A line with more than five numbers is a box and the keypoints of the
    file's ``kpt_shape``, else a polygon, which is replaced by its bounding box; for tasks with masks or key points,
    boxes have shapes too. Without splits, a fifth of the images
    is the test split; without names, classes are named by their numbers. Faulty and repeated lines, and paths of
    missing images, are skipped and counted.

    Raises:
        DataError: there are no images or labels, or most lines are no boxes (names file and line).
    """
    source = yolo_source(path)
    wanted, notes = choice.split, list[str]()
    if wanted == "test" and "val" in source.images and (why := _why_no_test(source)):
        wanted, notes = "val", [f"{why}: the val split is used"]
    tally = Tally()
    images, split, others = _images(source, path, wanted, tally)
    needed = needed_shape(choice.task)
    if needed == "keypoints" and not source.keypoints[0]:
        raise DataError(f"{path}: kpt_shape: expected [keypoints, 2 or 3] in a data.yaml for task 'pose', got none")
    read, missing = _read(images, source, tally, needed)
    if missing == len(images):
        raise DataError(f"{path}: expected files in labels/ with the same names as those in images/, got none")
    tally.require_boxes()
    notes += others
    names = source.names or _numbers(read)
    entries = [AnnotatedImage(image, boxes, None, text.name) for image, text, boxes in read]
    notes += tally.notes()
    if source.others:
        notes.append(f"{source.file} says where the images are; not read: {some_of(source.others)}")
    if missing:
        notes.append(f"images without a label file: {missing:,} taken as images without objects")
    if source.names is None or source.numbered:
        notes.append(f"no data.yaml or classes.txt has class names, so classes are named 0 to {len(names) - 1}")
    task = choice.task if needed and choice.task else "detect"
    return DetectionSet(str(path), names, entries, notes, split=split, task=task)


def _why_no_test(source: YoloSource) -> str:
    """Returns why a declared test split cannot be used; empty if it can. Those of competitions have no labels."""
    if "test" in source.missing:
        return f"the test split has no images here ({source.missing['test'].message})"
    labels = _LabelFiles()
    images = _listed(source.images["test"], Tally()) if "test" in source.images else []
    return "the test split has no label files" if images and not any(map(labels.of, images)) else ""


def _images(source: YoloSource, path: Path, wanted: Split, tally: Tally) -> tuple[list[Path], Split, list[str]]:
    """Returns the images of a split, the split that was read, and notes."""
    declared = {*source.images, *source.missing}
    if wanted == "test" and "test" not in declared and "val" in source.missing:
        wanted = "val"  # which stands for the test split, and whose error says more
    if wanted in source.missing:
        raise source.missing[wanted]
    if source.images or source.missing:
        split, notes = available_split(source.images, wanted, f"{path}: folders or lists of images")
        return _listed(source.images[split], tally), split, notes
    require_drawn(wanted, str(path))
    images = part_of(_listed(source.undeclared, tally), wanted, lambda file: file.stem)
    if not images:
        raise DataError(f"{path}: expected images of the {wanted} split, got none")
    return images, wanted, notes_on_drawn(wanted)


def _listed(places: tuple[Path, ...], tally: Tally) -> list[Path]:
    """Returns the images in folders and in list files."""
    found: list[Path] = []
    for place in places:
        found += images_below(place) if place.is_dir() else _from_list(place, tally)
    if not found:
        raise DataError(f"{', '.join(map(str, places))}: expected images, got none")
    return list(dict.fromkeys(found))


def _from_list(file: Path, tally: Tally) -> list[Path]:
    # Darknet's paths are relative to the folder where it is started, which need not be this one.
    folder = file.absolute().parent
    finder = Finder([folder, folder.parent, Path.cwd(), *folder.parents[1:]], nearest=2)
    found, first = list[Path](), None
    for line in text_lines(file):
        path = finder.find(line.text)
        if path is not None:
            found.append(path)
            continue
        message = f"{file}, line {line.number}: expected the path of an image, got {line.text.strip()[:200]}"
        first = first or DataError(message, hint="paths are relative to the list's folder, its parents, or this folder")
        tally.skip("paths of images that do not exist", first)
    if first is not None and not found:
        raise first
    tally.moved += finder.moved
    return found


def _read(
    images: list[Path], source: YoloSource, tally: Tally, needed: str
) -> tuple[list[tuple[Path, Path, Boxes]], int]:
    """Returns each image with its label file and boxes, and the number of images without a label file."""
    read: list[tuple[Path, Path, Boxes]] = []
    missing, first, used, labels = 0, None, set[Path](), _LabelFiles()
    numbering, long_lines = ClassNumbers(source.names), LongLines()
    forms = CornerBoxes("class cx cy width height", "write the center, the width and the height of each box")
    for image in images:
        text = labels.of(image)
        missing += text is None
        try:
            empty = BoxList((1, 1), tally)
            boxes = _boxes(text, source, tally, needed, numbering, long_lines, forms) if text else empty.boxes()
        except DataError as e:  # no text
            first = first or e
            tally.skip("images whose label file cannot be read", e)
            continue
        used |= {text} if text else set()
        read.append((image, text or image, boxes))
    if first is not None and not read:
        raise first
    numbering.require_from_0()
    forms.require_sizes()
    long_lines.require_outlines()
    _count_orphans(used, tally)
    return read, missing


class _LabelFiles:
    """Finds the label files of images."""

    def __init__(self) -> None:
        self._labels: dict[Path, Path | None] = {}
        self._in_any_case = AnyCase()

    def of(self, image: Path) -> Path | None:
        """Returns the label file of an image, or None."""
        parts, candidates = image.parts, list[tuple[Path, tuple[str, ...]]]()
        # Label Studio writes either name with escapes, such as %20, and the other one without.
        texts = [f"{stem}.txt" for stem in dict.fromkeys((image.stem, unquote(image.stem), quote(image.stem)))]
        for place in reversed(range(len(parts) - 1)):
            if parts[place].lower() in IMAGE_FOLDERS and (labels := self._folder(Path(*parts[:place]))):
                candidates += [(labels, (*parts[place + 1 : -1], text)) for text in texts]
        candidates += [(image.parent, (text,)) for text in texts]
        found = first_file(folder.joinpath(*below) for folder, below in candidates)
        # Windows and macOS take labels/Val/A.TXT for labels/val/a.txt.
        return found or first_file(
            filter(None, (self._in_any_case.path(folder, *below) for folder, below in candidates))
        )

    def _folder(self, parent: Path) -> Path | None:
        if parent not in self._labels:
            self._labels[parent] = child(parent, "labels")
        return self._labels[parent]


def _count_orphans(used: set[Path], tally: Tally) -> None:
    """Counts the label files of missing images, in the folders of the label files that were read."""
    for folder in sorted({file.parent for file in used}):
        places = [folder, *_mirrors(folder)]
        stems = {unquote(image.stem).lower() for place in places for image in files_in(place, *image_suffixes())}
        for file in files_in(folder, ".txt"):
            is_list = file.name.lower() in NAME_FILES or split_from_folder(Path(file.stem)) is not None
            if file not in used and unquote(file.stem).lower() not in stems and not is_list:
                tally.skip("label files without an image", DataError(f"{file}: expected its image, got no such file"))


def _mirrors(labels: Path) -> list[Path]:
    """Returns the folders that may have the images of a folder of label files."""
    parts = labels.parts
    found = []
    for place, part in enumerate(parts):
        if part.lower() == "labels":
            images = [child(Path(*parts[:place]), name) for name in IMAGE_FOLDERS]
            found += [AnyCase().path(each, *parts[place + 1 :]) for each in images if each is not None]
    return [folder for folder in found if folder is not None and folder.is_dir()]


def _boxes(
    file: Path,
    source: YoloSource,
    tally: Tally,
    needed: str,
    numbering: ClassNumbers,
    long_lines: LongLines,
    forms: CornerBoxes,
) -> Boxes:
    boxes, seen = BoxList((1, 1), tally), set[str]()
    for line in text_lines(file):
        where = f"{file}, line {line.number}"
        fields = line.text.split()
        if (text := " ".join(fields)) in seen:
            tally.skip("copies of lines", DataError(f"{where}: expected each box once, got a copy: '{text[:60]}'"))
            continue
        seen.add(text)
        try:
            _require_yolo(text, where)
            label = numbering.label(fields[0], where)
            numbers = _numbers_of(fields[1:], where)
            if len(numbers) > 4 and not source.keypoints[0]:
                long_lines.add(numbers, where)
            corners, outline = _corners(numbers, source.keypoints, where)
            if len(numbers) == 4:
                forms.add(numbers, corners, (1, 1), where)
            shape = _shape(numbers, outline, source.keypoints, needed, where) if needed else None
        except DataError as e:
            tally.skip_faulty(e)
            continue
        boxes.add(corners, label, where, shape=shape)
    return boxes.boxes()


def _require_yolo(line: str, where: str) -> None:
    """Refuses lines of other programs: DOTA's corners in px would else be taken for a class and an outline."""
    if other := program_of_line(line):
        raise DataError(
            f"{where}: expected a class and numbers, got {other}",
            hint="write class cx cy width height, as fractions of the image, or export as COCO, VOC or YOLO",
        )


def _numbers_of(fields: list[str], where: str) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError as e:
        raise DataError(f"{where}: expected numbers after the class, got '{' '.join(fields)[:60]}'") from e


def _corners(numbers: list[float], keypoints: tuple[int, int], where: str) -> tuple[Corners, list[float]]:
    """Returns the corners of a line's box, and its outline."""
    keypoint_numbers = math.prod(keypoints)
    if keypoint_numbers and len(numbers) == 4 + keypoint_numbers:
        numbers = numbers[:4]
    outline = not keypoint_numbers and len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not outline:
        more = f", or {4 + keypoint_numbers} with the key points of kpt_shape" if keypoint_numbers else ""
        raise DataError(
            f"{where}: expected 4 numbers after the class (cx cy width height){more}, got {len(numbers)}",
            hint=_LONG_LINES if len(numbers) > 4 else "",
        )
    if not all(_MIN_FRACTION <= number <= _MAX_FRACTION for number in numbers):  # rejects NaN too
        raise DataError(
            f"{where}: expected fractions of the image, 0 to 1, got '{' '.join(f'{n:g}' for n in numbers)[:60]}'",
            hint="divide px by the image's width and height, such as 0.5 0.5 0.2 0.1",
        )
    if outline:
        return (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])), numbers
    cx, cy, width, height = numbers
    x1, y1, x2, y2 = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    return (x1, y1, x2, y2), [x1, y1, x2, y1, x2, y2, x1, y2]


def _shape(
    numbers: list[float], outline: list[float], keypoints: tuple[int, int], needed: str, where: str
) -> ObjectShape:
    """Returns what a line says about its object beside the box; the area of a pose is 0.53 of its box.

    That is the share of Ultralytics' validation, since lines with keypoints have no mask.
    """
    if needed == "masks":
        return ObjectShape([outline])
    count, values = keypoints
    if len(numbers) != 4 + count * values:
        raise DataError(f"{where}: expected {4 + count * values} numbers after the class, got {len(numbers)}")
    points: list[float] = []
    for i in range(4, len(numbers), values):
        x, y = numbers[i : i + 2]
        points += [x, y, numbers[i + 2] if values == 3 else float(x >= 0 and y >= 0)]
    return ObjectShape(None, tuple(points), 0.53 * numbers[2] * numbers[3])


def _numbers(read: list[tuple[Path, Path, Boxes]]) -> tuple[str, ...]:
    last = max((int(boxes.classes.max(initial=-1)) for _, _, boxes in read), default=-1)
    return tuple(str(i) for i in range(last + 1))
