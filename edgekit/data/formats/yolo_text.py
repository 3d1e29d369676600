"""Reads YOLO text files: one per image, one box per line, ``class cx cy width height`` as fractions of the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from edgekit.data.detection_set import AnnotatedImage, DetectionSet, Tally
from edgekit.data.examples import Boxes, Choice, Split
from edgekit.data.files import AnyCase, Finder, child, files_in, folded, leads_to_nothing
from edgekit.data.formats.label_studio import hint_on_prefix
from edgekit.data.formats.text_lines import text_lines
from edgekit.data.formats.yolo_lines import YoloLines
from edgekit.data.formats.yolo_source import NAME_FILES, YoloSource, yolo_source
from edgekit.data.images import image_suffixes, images_below
from edgekit.data.shapes import needed_shape
from edgekit.data.splits import available_split, notes_on_drawn, part_of, require_drawn, split_from_folder
from edgekit.errors import DataError
from edgekit.storage import first_file
from edgekit.text import some_of

__all__ = ["yolo_from_path"]

# Folders of images, whose labels are in the same place below labels; the last three are those of Darknet's data.c.
IMAGE_FOLDERS = ("images", "jpegimages", "raw")


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
    read, missing, has_outlines = _read(images, source, tally, needed)
    if missing == len(images):
        raise DataError(
            f"{path}: expected files in labels/ with the same names as those in images/, got none",
            hint=next(filter(None, map(hint_on_prefix, _LabelFiles().names_near(images[0]))), "")
            or _hint_on_dota(images[0])
            or _hint_on_classes(images[0]),
        )
    if needed == "masks" and not has_outlines:
        needed = ""  # a box is its own outline only beside others
    tally.require_boxes()
    notes += others
    names = source.names or _numbers(read)
    if not needed:
        read = [(image, text, replace(boxes, shapes=())) for image, text, boxes in read]
    entries = [AnnotatedImage(image, boxes, None, text.name) for image, text, boxes in read]
    notes += tally.notes()
    if source.others:
        notes.append(f"{source.file} says where the images are; not read: {some_of(source.others)}")
    if missing:
        notes.append(f"images without a label file: {missing:,} taken as images without objects")
    if names and (source.names is None or source.numbered):
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
        hint = "paths are relative to the list's folder, its parents, or this folder"
        first = first or DataError(message, hint=hint_on_prefix(line.text) or hint)
        tally.skip("paths of images that do not exist", first)
    if first is not None and not found:
        raise first
    tally.moved += finder.moved
    return found


def _read(
    images: list[Path], source: YoloSource, tally: Tally, needed: str
) -> tuple[list[tuple[Path, Path, Boxes]], int, bool]:
    """Returns each image with its label file and boxes, how many have no label file, and whether any has outlines."""
    read: list[tuple[Path, Path, Boxes]] = []
    missing, first, used, labels = 0, None, set[Path](), _LabelFiles()
    lines = YoloLines(source, needed, tally)
    for image in images:
        text = labels.of(image)
        missing += text is None
        try:
            boxes = lines.boxes(text)
        except DataError as e:  # no text
            first = first or e
            tally.skip("images whose label file cannot be read", e)
            continue
        used |= {text} if text else set()
        read.append((image, text or image, boxes))
    if first is not None and not read:
        raise first
    lines.require_labels()
    _count_orphans(used, tally)
    return read, missing, lines.has_outlines


def _hint_on_dota(image: Path) -> str:
    folder = child(image.parent.parent, "labeltxt")
    if folder is None:
        return ""
    return f"{folder} has labels of DOTA, which are not read: export for YOLO's rotated boxes, which are in labels/"


def _hint_on_classes(image: Path) -> str:
    """Returns a hint if an image is in a folder of ``images/`` that is no split, which may be that of a class."""
    folder = image.parent
    if folder.parent.name.lower() not in ("images", "jpegimages") or split_from_folder(folder) is not None:
        return ""
    return f"if {folder.name} is a class, use {folder.parent}"


class _LabelFiles:
    """Finds the label files of images."""

    def __init__(self) -> None:
        self._labels: dict[Path, Path | None] = {}
        self._in_any_case = AnyCase()

    def of(self, image: Path) -> Path | None:
        """Returns the label file of an image, or None."""
        candidates = self._candidates(image)
        places = [folder.joinpath(*below) for folder, below in candidates]
        found = first_file(places) or next(filter(leads_to_nothing, places), None)
        # Windows and macOS take labels/Val/A.TXT for labels/val/a.txt.
        return found or first_file(
            filter(None, (self._in_any_case.path(folder, *below) for folder, below in candidates))
        )

    def names_near(self, image: Path) -> list[str]:
        """Returns the names of the text files where the label file of an image may be."""
        folders = dict.fromkeys(folder.joinpath(*below).parent for folder, below in self._candidates(image))
        return [file.name for folder in folders if folder.is_dir() for file in files_in(folder, ".txt")]

    def _candidates(self, image: Path) -> list[tuple[Path, tuple[str, ...]]]:
        """Returns where the label file of an image may be: a folder, and the parts of the path below it."""
        parts, candidates = image.parts, list[tuple[Path, tuple[str, ...]]]()
        # Label Studio writes either name with escapes, such as %20, and the other one without.
        texts = [f"{stem}.txt" for stem in dict.fromkeys((image.stem, unquote(image.stem), quote(image.stem)))]
        for place in reversed(range(len(parts) - 1)):
            if parts[place].lower() in IMAGE_FOLDERS and (labels := self._folder(Path(*parts[:place]))):
                candidates += [(labels, (*parts[place + 1 : -1], text)) for text in texts]
        candidates += [(image.parent, (text,)) for text in texts]
        return candidates

    def _folder(self, parent: Path) -> Path | None:
        if parent not in self._labels:
            self._labels[parent] = child(parent, "labels")
        return self._labels[parent]


def _count_orphans(used: set[Path], tally: Tally) -> None:
    """Counts the label files of missing images, in the folders of the label files that were read."""
    for folder in sorted({file.parent for file in used}):
        places = [folder, *_mirrors(folder)]
        stems = {folded(unquote(image.stem)) for place in places for image in files_in(place, *image_suffixes())}
        for file in files_in(folder, ".txt"):
            is_list = file.name.lower() in NAME_FILES or split_from_folder(Path(file.stem)) is not None
            if file not in used and folded(unquote(file.stem)) not in stems and not is_list:
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


def _numbers(read: list[tuple[Path, Path, Boxes]]) -> tuple[str, ...]:
    last = max((int(boxes.classes.max(initial=-1)) for _, _, boxes in read), default=-1)
    return tuple(str(i) for i in range(last + 1))
