"""Reads Pascal VOC: one XML file per image and an image list per split, as written by LabelImg and CVAT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.data.detection_set import AnnotatedImage, BoxList, DetectionSet, Tally
from edgekit.data.examples import Choice, Split
from edgekit.data.formats.text_lines import names_in, text_lines
from edgekit.data.formats.xml_tree import Element, element_from_file
from edgekit.data.images import IMAGE_SUFFIXES
from edgekit.data.splits import part_of
from edgekit.errors import DataError, nearest
from edgekit.storage import first_file

__all__ = ["VOC_NAMES", "voc_from_path", "voc_root"]

VOC_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)

# Lists of ImageSets/Main in order of preference. VOC2007 is trained on trainval, because its test split has labels;
# later years do not publish theirs and are evaluated on val.
_LISTS: dict[Split, tuple[str, ...]] = {"train": ("trainval", "train"), "test": ("test", "val", "valid")}


@dataclass(frozen=True)
class _Object:
    """A box from an annotation file."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    line: int


@dataclass(frozen=True)
class _Annotation:
    """Contents of an annotation file."""

    file: Path
    filename: str
    size: tuple[int, int]
    objects: tuple[_Object, ...]


def voc_from_path(path: Path, choice: Choice) -> DetectionSet:
    """Opens a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``, or a folder of XML files and images.

    Without split lists, a fifth of the images is the test split. Classes are read from ``labels.txt`` or
    ``classes.txt``. Otherwise they are VOC's 20 classes if the annotations use all of them, or use no others and the
    folder is named like VOC's (``VOC2007``); otherwise all class names in the annotations, sorted. VOC pixel
    coordinates start at 1 and include the last pixel, so ``(1, 1, 500, 375)`` becomes ``(0, 0, 500, 375)``. Difficult
    objects become `Boxes.ignored`, as in VOC's own evaluation.

    Raises:
        DataError: a file is missing or is not VOC XML (names file and line), or a box is outside its image.
    """
    root = voc_root(path)
    if root is None:
        raise DataError(f"{path}: expected a folder with Annotations and JPEGImages, or with .xml files, got neither")
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = sorted(file for file in annotations.iterdir() if file.suffix.lower() == ".xml")
    read = {file.stem: _annotation(file) for file in files}
    tally = Tally()
    labels = _labels(root, list(read.values()))
    class_of = {name: index for index, name in reversed(list(enumerate(labels)))}
    images = [_annotated_image(root, read[stem], class_of, tally) for stem in _chosen(root, list(read), choice.split)]
    return DetectionSet(str(path), labels, images, tally.notes())


def voc_root(path: Path) -> Path | None:
    """Returns the root of a VOC data set: ``path`` itself, or the latest year in a ``VOCdevkit``; None if not VOC."""
    if not path.is_dir():
        return None
    if (path / "Annotations").is_dir() and any((path / "Annotations").glob("*.xml")):
        return path
    years = sorted(folder for folder in path.glob("VOC2*") if (folder / "Annotations").is_dir())
    if years:
        return years[-1]
    return path if any(path.glob("*.xml")) else None


def _annotation(file: Path) -> _Annotation:
    root = element_from_file(file)
    if root.tag != "annotation":
        raise DataError(f"{file}, line {root.line}: expected <annotation>, got <{root.tag[:40]}>")
    size = _inner(root, "size", file)
    sides = (_whole(_inner(size, "width", file), file), _whole(_inner(size, "height", file), file))
    name = root.find("filename")
    objects = tuple(_object(element, file) for element in root.all("object"))
    return _Annotation(file, name.text if name else "", sides, objects)


def _object(element: Element, file: Path) -> _Object:
    name = _inner(element, "name", file)
    if not name.text:
        raise DataError(f"{file}, line {name.line}: expected a class name, got none")
    box = _inner(element, "bndbox", file)
    x1, y1, x2, y2 = (_number(_inner(box, tag, file), file) for tag in ("xmin", "ymin", "xmax", "ymax"))
    difficult = element.find("difficult")
    return _Object(name.text, (x1 - 1, y1 - 1, x2, y2), difficult is not None and difficult.text == "1", box.line)


def _inner(element: Element, tag: str, file: Path) -> Element:
    found = element.find(tag)
    if found is None:
        raise DataError(f"{file}, line {element.line}: expected <{tag}> in <{element.tag}>, got none")
    return found


def _number(element: Element, file: Path) -> float:
    try:
        return float(element.text)
    except ValueError as e:
        got = element.text[:40]
        raise DataError(f"{file}, line {element.line}: expected a number in <{element.tag}>, got '{got}'") from e


def _whole(element: Element, file: Path) -> int:
    number = _number(element, file)
    if not 1 <= number < 2**31 or number != int(number):
        got = element.text[:40]
        raise DataError(f"{file}, line {element.line}: expected px > 0 in <{element.tag}>, got '{got}'")
    return int(number)


def _labels(root: Path, read: list[_Annotation]) -> tuple[str, ...]:
    named = first_file(root / name for name in ("labels.txt", "classes.txt"))
    if named is not None:
        return names_in(named)
    names = {item.name for annotation in read for item in annotation.objects}
    of_voc = names <= set(VOC_NAMES) and (len(names) == len(VOC_NAMES) or root.resolve().name.startswith("VOC2"))
    return VOC_NAMES if of_voc else tuple(sorted(names))


def _chosen(root: Path, stems: list[str], split: Split) -> list[str]:
    lists = root / "ImageSets" / "Main"
    there = [name for name in _LISTS[split] if (lists / f"{name}.txt").is_file()]
    if "trainval" in there and not (lists / "test.txt").is_file():
        there.remove("trainval")  # it includes val, which is the test split here
    if not there:
        if any((lists / f"{name}.txt").is_file() for names in _LISTS.values() for name in names):
            raise DataError(
                f"{lists}: expected a list {' or '.join(f'{name}.txt' for name in _LISTS[split])}, got none"
            )
        return part_of(stems, split, str)
    path, known, chosen = lists / f"{there[0]}.txt", set(stems), []
    for line in text_lines(path):
        stem = line.text.split()[0]
        if stem not in known:
            raise DataError(
                f"{path}, line {line.number}: expected the name of a file in Annotations, got '{stem[:80]}'"
            )
        chosen.append(stem)
    return chosen


def _annotated_image(root: Path, annotation: _Annotation, class_of: dict[str, int], tally: Tally) -> AnnotatedImage:
    boxes = BoxList(annotation.size, tally)
    for item in annotation.objects:
        where = f"{annotation.file}, line {item.line}"
        if item.name not in class_of:
            raise DataError(
                f"{where}: expected a known class name, got '{item.name[:80]}'", hint=nearest(item.name, class_of)
            )
        boxes.add(item.corners, class_of[item.name], where, ignored=item.difficult)
    path = _image_path(root, annotation)
    return AnnotatedImage(path, boxes.boxes(), annotation.size, annotation.file.name)


def _image_path(root: Path, annotation: _Annotation) -> Path:
    """Finds the image with the annotation file's stem, or else the file name given in the annotation."""
    folder = next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), root)
    stem = annotation.file.stem
    names = [f"{stem}{suffix}" for suffix in (".jpg", *IMAGE_SUFFIXES, ".JPG", ".JPEG", ".PNG")]
    if last := Path(annotation.filename).name:
        names.append(last)
    path = first_file(folder / name for name in names)
    if path is not None:
        return path
    raise DataError(f"{annotation.file}: expected its image {stem}.jpg in {folder}, got no such file")
