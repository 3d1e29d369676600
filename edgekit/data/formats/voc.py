"""Reads Pascal VOC: one XML file per image and an image list per split, as written by LabelImg, CVAT and Roboflow."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.data.detection_set import AnnotatedImage, BoxList, DetectionSet, Tally
from edgekit.data.examples import Choice, Split
from edgekit.data.files import child, files_below, files_in, folded, folders_in
from edgekit.data.formats.coco_file import BACKGROUND_NAMES
from edgekit.data.formats.label_studio import hint_on_prefix
from edgekit.data.formats.text_lines import names_in, text_lines
from edgekit.data.formats.voc_xml import VocAnnotation, voc_annotation
from edgekit.data.images import image_size, image_suffixes
from edgekit.data.splits import (
    SPLIT_NAMES,
    available_split,
    notes_on_drawn,
    part_of,
    require_drawn,
    split_from_folder,
)
from edgekit.errors import DataError, nearest

__all__ = ["VOC_NAMES", "voc_from_path", "voc_root"]

VOC_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)
_ANNOTATION_FOLDERS = ("annotations", "labels", "xmls", "xml")
_IMAGE_FOLDERS = ("jpegimages", "images", "data", "img")
_NAME_FILES = ("labels.txt", "classes.txt", "class_names.txt")


@dataclass(frozen=True)
class _Part:
    """A folder of annotations with its images.

    Attributes:
        root: the folder that contains both.
        files: the annotation files by their path below the annotation folder, without suffix.
    """

    root: Path
    files: dict[str, Path]


def voc_from_path(path: Path, choice: Choice) -> DetectionSet:
    """Opens a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``, or folders of XML files and images.

    The splits are the lists in ``ImageSets/Main``, in any spelling, or folders such as ``train`` and ``valid``; without
    either, a fifth of the images is the test split. Classes are read from ``labels.txt`` or ``classes.txt``. Otherwise
    they are VOC's 20 classes if the annotations use all of them, or use no others and the folder is named like VOC's
    (``VOC2007``); otherwise all class names in the annotations of all splits, sorted.

    VOC's pixels start at 1, and the last one is included, so ``(1, 1, 500, 375)`` becomes ``(0, 0, 500, 375)``. Many
    programs write edges that start at 0 instead: if a coordinate of the data set is 0 or a fraction, and it is not
    VOC's own, all are taken as they are, and a note says so. Difficult objects become `Boxes.ignored`, which count like
    COCO's crowds: VOC's own evaluation takes the overlap by the union there, not by the detection. The size of an image
    without ``<size>`` is read from the image. Faulty boxes, and files without an image or an annotation, are skipped
    and counted.

    Raises:
        DataError: no file or box is usable, or most boxes are faulty; names file and line.
    """
    root = voc_root(path)
    if root is None:
        raise DataError(f"{path}: expected a folder with Annotations and JPEGImages, or with .xml files, got neither")
    parts, tally = _parts(root), Tally()
    own, notes = None, list[str]()
    if None not in parts:
        own, notes = available_split([key for key in parts if key is not None], choice.split, f"{root}: folders")
    # Classes and the first pixel are those of all splits, what is wrong is counted for one.
    read = {split: _read(part, tally if split == own else Tally()) for split, part in parts.items()}
    found = [annotation for each in read.values() for annotation in each.values()]
    labels = _labels(root, found)
    chosen, split = list(read[own].values()), own or choice.split
    if own is None:
        chosen, split, notes = _chosen(root, read[None], choice.split, tally)
    shift = _first_pixel(root, labels, found)
    if not shift:
        notes.append("boxes start at 0 or have fractions, so they are taken as edges, not as VOC's pixels from 1")
    images = _annotated_images(parts[own].root, chosen, labels, shift, tally)
    tally.require_boxes()
    return DetectionSet(str(path), labels, images, [*notes, *tally.notes()], split=split)


def voc_root(path: Path) -> Path | None:
    """Returns the root of a VOC data set: ``path`` itself, or the latest year in a ``VOCdevkit``; None if not VOC."""
    if not path.is_dir():
        return None
    if _annotation_folder(path) is not None:
        return path
    years = [folder for folder in folders_in(path) if folder.name.startswith("VOC2") and _annotation_folder(folder)]
    if years:
        return years[-1]
    return path if _split_folders(path) else None


def _annotation_folder(root: Path) -> Path | None:
    """Returns the folder of the XML files: ``Annotations``, or ``root`` itself; None if there are none."""
    for name in _ANNOTATION_FOLDERS:
        folder = child(root, name)
        if folder is not None and folder.is_dir() and next(files_below(folder, ".xml"), None) is not None:
            return folder
    return root if files_in(root, ".xml") else None


def _split_folders(root: Path) -> dict[Split, Path]:
    found = {split_from_folder(folder): folder for folder in reversed(folders_in(root)) if _annotation_folder(folder)}
    return {split: folder for split, folder in found.items() if split is not None}


def _parts(root: Path) -> dict[Split | None, _Part]:
    """Returns the folders of annotations by split; under None if the folders do not declare it."""
    folders: dict[Split | None, Path] = {None: root}
    if _annotation_folder(root) is None:
        folders = dict(_split_folders(root).items())
    found: dict[Split | None, _Part] = {}
    for split, place in folders.items():
        annotations = _annotation_folder(place)
        assert annotations is not None  # it was found above
        # A folder of images, too, may have subfolders that are no part of the data set.
        files = files_in(place, ".xml") if annotations == place else list(files_below(annotations, ".xml"))
        found[split] = _Part(place, {_key(file, annotations): file for file in files})
    return (_parts_by_folder(found[None]) if None in found and not _lists(root) else {}) or found


def _parts_by_folder(part: _Part) -> dict[Split | None, _Part]:
    """Returns the parts of a folder of annotations whose subfolders are splits; none if any file is in another one."""
    files: dict[Split | None, dict[str, Path]] = {}
    for key, file in part.files.items():
        split = split_from_folder(Path(key.partition("/")[0])) if "/" in key else None
        files.setdefault(split, {})[key] = file
    return {} if None in files else {split: _Part(part.root, found) for split, found in files.items()}


def _key(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _read(part: _Part, tally: Tally) -> dict[str, VocAnnotation]:
    found: dict[str, VocAnnotation] = {}
    first: DataError | None = None
    for key, file in part.files.items():
        try:
            found[key] = voc_annotation(file)
        except DataError as e:
            first = first or e
            tally.skip("annotation files that cannot be read", e)
    if first is not None and len(found) * 2 < len(part.files):
        raise first
    return found


def _labels(root: Path, read: Iterable[VocAnnotation]) -> tuple[str, ...]:
    names = {item.name for annotation in read for item in annotation.objects}
    named = child(root, *_NAME_FILES) or child(root, "labelmap.txt")
    if named is not None and named.name.lower() == "labelmap.txt":
        # CVAT's lines are label:color:parts:actions.
        listed = [line.text.partition(":")[0].strip() for line in text_lines(named) if line.text[0] != "#"]
    elif named is not None:
        listed = list(names_in(named))
    else:
        of_voc = names <= set(VOC_NAMES) and (len(names) == len(VOC_NAMES) or root.resolve().name.startswith("VOC2"))
        return VOC_NAMES if of_voc else tuple(sorted(names))
    return tuple(dict.fromkeys(name for name in listed if name in names or name.lower() not in BACKGROUND_NAMES))


def _chosen(
    root: Path, read: dict[str, VocAnnotation], wanted: Split, tally: Tally
) -> tuple[list[VocAnnotation], Split, list[str]]:
    """Returns the annotations of a split, the split that was read, and notes."""
    lists = _lists(root)
    if not lists:
        require_drawn(wanted, str(root))
        return [read[key] for key in part_of(list(read), wanted, str)], wanted, notes_on_drawn(wanted)
    split, notes = available_split(lists, wanted, f"{root}: lists in ImageSets/Main")
    stems: dict[str, list[str]] = {}
    for key in read:
        stems.setdefault(key.rpartition("/")[2], []).append(key)
    chosen: dict[str, VocAnnotation] = {}
    first: DataError | None = None
    several = len(lists[split]) > 1
    for file, line in ((each, line) for each in lists[split] for line in text_lines(each)):
        text = line.text.strip().replace("\\", "/")
        where = f"{file}, line {line.number}"
        found = _files_named(text, read, stems)
        key = found[0] if found else ""
        if not found:
            error = DataError(f"{where}: expected the name of a file in Annotations, got '{text[:80]}'")
            first = first or error
            tally.skip("listed images without an annotation file", error)
        elif len(found) > 1:
            error = DataError(
                f"{where}: expected one file called {text[:80]} in Annotations, got {', '.join(found[:3])}",
                hint="move all but one of these folders out of Annotations",
            )
            first = first or error
            tally.skip("listed images with several annotation files", error)
        elif key in chosen and several:
            continue  # the list of each class has all images
        elif key in chosen:
            error = DataError(f"{where}: expected each image once, got '{text[:80]}'")
            tally.skip("images that are listed twice", error)
        else:
            chosen[key] = read[key]
    if first is not None and not chosen:
        raise first
    return list(chosen.values()), split, notes


def _files_named(line: str, read: Container[str], stems: Mapping[str, list[str]]) -> list[str]:
    """Returns the files that a line of a list names; several where folders of ``Annotations`` have the same names."""
    for name in _names(line):
        if name in read:
            return [name]
        if name in stems:
            return stems[name]
    return []


def _names(line: str) -> Iterable[str]:
    """Yields what a line of a list may name: a name with spaces, or with 1 or -1 after it, as a path, with a suffix."""
    for text in dict.fromkeys((line, line.rpartition(" ")[0].strip(), line.split()[0])):
        path = PurePosixPath(text)
        is_image = path.suffix.lower() in (*image_suffixes(), ".xml")
        for each in (path, path.with_suffix("") if is_image else path):
            yield str(each)
            yield each.name


def _lists(root: Path) -> dict[Split, tuple[Path, ...]]:
    """Returns the lists of ``ImageSets/Main`` by split, in any case and spelling.

    VoTT writes lists for each class alone, such as ``cat_train.txt``.

    VOC2007 is trained on trainval, because its test split has labels; later years do not publish theirs and are
    evaluated on val.
    """
    sets = child(root, "imagesets")
    folder = root if sets is None else child(sets, "main") or sets
    files = {file.stem.lower(): file for file in files_in(folder, ".txt")} if folder.is_dir() else {}
    found: dict[Split, tuple[Path, ...]] = {}
    for split, names in SPLIT_NAMES.items():
        there = [files[name] for name in names if name in files]
        if there:
            found[split] = (there[0],)
    if "test" in found and "trainval" in files:
        found["train"] = (files["trainval"],)
    return found or (_lists_of_classes(files) if sets is not None else {})


def _lists_of_classes(files: Mapping[str, Path]) -> dict[Split, tuple[Path, ...]]:
    found: dict[Split, tuple[Path, ...]] = {}
    for split, names in SPLIT_NAMES.items():
        ends = [tuple(file for stem, file in files.items() if stem.endswith(f"_{name}")) for name in names]
        if there := next(filter(None, ends), None):
            found[split] = there
    return found


def _first_pixel(root: Path, labels: tuple[str, ...], read: Iterable[VocAnnotation]) -> int:
    """Returns the coordinate of the first pixel: 1 as in VOC, or 0."""
    if labels == VOC_NAMES and root.resolve().name.startswith("VOC2"):
        return 1  # a few of its own boxes have fractions
    corners = (number for annotation in read for item in annotation.objects for number in item.corners)
    return int(not any(number < 1 or number != int(number) for number in corners))


def _annotated_images(
    root: Path, chosen: list[VocAnnotation], labels: tuple[str, ...], first_pixel: int, tally: Tally
) -> list[AnnotatedImage]:
    places, found = _Images(root), list[AnnotatedImage]()
    class_of = {label: i for i, label in enumerate(labels)}
    missing: DataError | None = None
    for annotation in chosen:
        try:
            path = places.of(annotation)
            size = annotation.size or image_size(path)
        except DataError as e:
            missing = missing or e
            tally.skip("annotation files without an image", e)
            continue
        boxes = BoxList(size, tally)
        for error in annotation.faulty:
            tally.skip_faulty(error)
        for item in annotation.objects:
            where = f"{annotation.file}, line {item.line}"
            if item.name not in class_of:
                message = f"{where}: expected a known class name, got '{item.name[:80]}'"
                tally.skip_faulty(DataError(message, hint=nearest(item.name, labels)))
                continue
            x1, y1, x2, y2 = item.corners
            corners = (x1 - first_pixel, y1 - first_pixel, x2, y2)
            boxes.add(corners, class_of[item.name], where, ignored=item.difficult)
        found.append(AnnotatedImage(path, boxes.boxes(), size, annotation.file.name))
    if missing is not None and not found:
        raise missing
    return found


class _Images:
    """Finds the image of an annotation: the one with its name, else the one that its ``<filename>`` names."""

    def __init__(self, root: Path) -> None:
        found = [child(root, name) for name in _IMAGE_FOLDERS]
        folders = [folder for folder in found if folder is not None and folder.is_dir()]
        # DIOR's JPEGImages-trainval and JPEGImages-test
        folders += [each for each in folders_in(root) if each.name.lower().startswith("jpegimages-")]
        self._folder = folders[0] if folders else root
        self._by_stem: dict[str, list[Path]] = {}
        self._by_name: dict[str, Path] = {}
        for folder in folders:
            self._index(folder, files_below(folder, *image_suffixes()))
        for folder in (root, *(each for name in _ANNOTATION_FOLDERS if (each := child(root, name)) is not None)):
            if folder.is_dir():
                self._index(folder, files_in(folder, *image_suffixes()))

    def _index(self, folder: Path, files: Iterable[Path]) -> None:
        for file in files:
            key = _key(file, folder)
            for stem in dict.fromkeys((key, key.rpartition("/")[2])):
                self._by_stem.setdefault(folded(stem), []).append(file)
            self._by_name.setdefault(folded(file.name), file)

    def of(self, annotation: VocAnnotation) -> Path:
        """Returns the image.

        Raises:
            DataError: there is none.
        """
        name, stem = annotation.filename.replace("\\", "/").rpartition("/")[2], annotation.file.stem
        same = self._by_stem.get(folded(stem), [])
        exact = [file for file in same if file.name == name] or [file for file in same if file.stem == stem] or same
        found = exact[0] if exact else self._by_name.get(folded(name)) if name else None
        if found is None:
            raise DataError(
                f"{annotation.file}: expected its image {stem}.jpg in {self._folder}, got no such file",
                hint=hint_on_prefix(name) or hint_on_prefix(stem),
            )
        return found
