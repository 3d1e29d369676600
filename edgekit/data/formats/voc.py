"""Pascal VOC: one XML file a picture, and lists of the pictures of each split; so LabelImg and CVAT write them too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.data.detection_set import AnnotatedPicture, BoxList, DetectionSet, Tally
from edgekit.data.examples import Choice, Split
from edgekit.data.formats.text_lines import names_in, text_lines
from edgekit.data.formats.xml_tree import Element, element_from_file
from edgekit.data.images import IMAGE_SUFFIXES
from edgekit.data.paths import first_file
from edgekit.data.splits import part_of
from edgekit.errors import DataError, nearest

__all__ = ["VOC_NAMES", "voc_from_path", "voc_root"]

VOC_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)

# Lists of ImageSets/Main in the order of preference. VOC2007 is trained on trainval, as its test has labels; later ones
# keep theirs secret, and are measured on val.
_LISTS: dict[Split, tuple[str, ...]] = {"train": ("trainval", "train"), "test": ("test", "val", "valid")}


@dataclass(frozen=True)
class _Object:
    """A box as the file has it."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    line: int


@dataclass(frozen=True)
class _Annotation:
    """What an XML file says."""

    file: Path
    filename: str
    size: tuple[int, int]
    objects: tuple[_Object, ...]


def voc_from_path(path: Path, choice: Choice) -> DetectionSet:
    """The set in a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``, or of XML files with pictures.

    Without lists of splits, a fifth of the pictures is the test. Classes are those of ``labels.txt`` or
    ``classes.txt``; else VOC's twenty in their order where the files name all of them, or the folder is called as VOC's
    (``VOC2007``) and they name no other; else all that the files name, sorted. VOC counts pixels from 1 and means the
    last one too, so ``(1, 1, 500, 375)`` becomes ``(0, 0, 500, 375)``. Difficult objects are set aside (see
    `Boxes.ignored`), as in VOC's own evaluation.

    Raises:
        DataError: a file is missing or is not such XML; names file and line; or a box lies outside its picture.
    """
    root = voc_root(path)
    if root is None:
        raise DataError(f"{path}: expected a folder with Annotations and JPEGImages, or with .xml files, got neither")
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = sorted(file for file in annotations.iterdir() if file.suffix.lower() == ".xml")
    read = {file.stem: _annotation(file) for file in files}
    tally = Tally()
    labels = _labels(root, list(read.values()))
    pictures = [_picture(root, read[stem], labels, tally) for stem in _chosen(root, list(read), choice.split)]
    return DetectionSet(str(path), labels, pictures, tally.notes())


def voc_root(path: Path) -> Path | None:
    """The folder that is a VOC set: this one, or the last year of a ``VOCdevkit``; None if there is none."""
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
        raise DataError(f"{file}, line {name.line}: expected the name of a class, got none")
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
        there.remove("trainval")  # it holds what is measured on
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


def _picture(root: Path, annotation: _Annotation, labels: tuple[str, ...], tally: Tally) -> AnnotatedPicture:
    boxes = BoxList(annotation.size, tally)
    for item in annotation.objects:
        where = f"{annotation.file}, line {item.line}"
        if item.name not in labels:
            raise DataError(
                f"{where}: expected the name of a class, got '{item.name[:80]}'", hint=nearest(item.name, labels)
            )
        boxes.add(item.corners, labels.index(item.name), where, ignored=item.difficult)
    path = _picture_path(root, annotation)
    return AnnotatedPicture(path, boxes.boxes(), annotation.size, annotation.file.name)


def _picture_path(root: Path, annotation: _Annotation) -> Path:
    """The picture of the same name as the file, else the one that the file names."""
    folder = next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), root)
    stem = annotation.file.stem
    names = [f"{stem}{suffix}" for suffix in (".jpg", *IMAGE_SUFFIXES, ".JPG", ".JPEG", ".PNG")]
    if last := Path(annotation.filename).name:
        names.append(last)
    path = first_file(folder / name for name in names)
    if path is not None:
        return path
    raise DataError(f"{annotation.file}: expected its picture {stem}.jpg in {folder}, got no such file")
