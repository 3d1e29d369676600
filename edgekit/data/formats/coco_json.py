"""Reads COCO JSON: one file of images, boxes and categories; http://cocodataset.org/#format-data, object detection."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.data.coco import COCO_NAMES, is_coco
from edgekit.data.detection_set import AnnotatedImage, BoxList, DetectionSet, Tally
from edgekit.data.examples import Choice, Split
from edgekit.data.files import Finder, files_in, folders_in
from edgekit.data.formats.coco_boxes import corners_of
from edgekit.data.formats.coco_file import (
    Annotation,
    CocoFile,
    Id,
    Image,
    ShapedAnnotation,
    begins_like_coco,
    coco_file,
    names_of_categories,
    same_id,
)
from edgekit.data.formats.corner_boxes import CornerBoxes
from edgekit.data.formats.label_studio import hint_on_prefix
from edgekit.data.images import image_size, image_suffixes
from edgekit.data.shapes import ObjectShape, needed_shape
from edgekit.data.splits import (
    DRAWN,
    available_split,
    notes_on_drawn,
    notes_on_others,
    part_of,
    require_drawn,
    split_from_folder,
    split_from_name,
    without_split,
)
from edgekit.errors import DataError
from edgekit.storage import first_file
from edgekit.text import some_of

__all__ = ["coco_from_path", "coco_json_files"]

# Other files in COCO's annotations folder.
_WITHOUT_BOXES = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
# Roboflow, FiftyOne, Label Studio and labelme2coco give their files these names.
_NAMES = ("_annotations.coco.json", "labels.json", "result.json", "annotations.json")
_WRITE_SIZES = 'write [x1, y1, x2 - x1, y2 - y1], or add "bbox_mode": 0 to each annotation, as Detectron2 does'


class _Source(NamedTuple):
    """The annotation file to read; ``split`` is None if it declares none."""

    path: Path
    split: Split | None
    notes: list[str]


def coco_from_path(path: Path, choice: Choice) -> DetectionSet:
    """Opens a COCO data set: a JSON file, or a folder with one per split.

    The folder has COCO's own layout (``annotations/instances_val2017.json`` next to ``val2017/``) or that of a Roboflow
    export (``valid/_annotations.coco.json`` next to its images). If the name contains a split other than the requested
    one, the matching file next to it is read; a file without a split in its name is split by a hash of its image names.
    Boxes are ``[x, y, width, height]``, or what Detectron2's ``bbox_mode`` says; crowds become `Boxes.ignored`. For
    tasks with masks or key points, boxes have shapes too; for ``pose``, the file is ``person_keypoints_val2017.json``.

    Classes are numbered in the order of the category ids of the first split, then the other splits add theirs, by name,
    so that a class has the same index in all splits. A category that only groups others, as Roboflow's first one, is no
    class. The size of an image without width and height is read from the image, a box that is missing from the mask,
    with a note. Annotations of unlisted images or
    categories, duplicates, faulty boxes and missing images are skipped and counted.

    Raises:
        DataError: the file is not COCO JSON (names the field), no image or box is usable, or most boxes are faulty.
    """
    file, split, notes = _source(path, choice)
    needed = needed_shape(choice.task)
    content = coco_file(file, shapes=bool(needed))
    if content.annotations and not any(_has_shape(annotation, needed) for annotation in content.annotations):
        needed = ""  # a set of boxes
    if not needed and not all(annotation.bbox for annotation in content.annotations):
        content = coco_file(file, shapes=True)  # boxes that are missing are those of the masks
    tally = Tally()
    images = _images(content, file, tally)
    labels, class_of = _classes(content, file, tally)
    sizes = {same_id(image.id): size for image, _, size, _ in images}
    lists = _box_lists(content, sizes, class_of, file, tally, needed)
    tally.require_boxes()
    chosen = images
    if split is None:
        require_drawn(choice.split, str(file))
        chosen = part_of(images, choice.split, lambda item: item[0].file_name)
    if not chosen:
        raise DataError(
            f"{file}: images: expected at least one for the {choice.split} split, got {len(images)} in all",
            hint=DRAWN if split is None and images else "",
        )
    entries = [
        AnnotatedImage(place, lists[same_id(image.id)].boxes(), size, where) for image, place, size, where in chosen
    ]
    notes = [*notes, *tally.notes()]
    task = choice.task if needed and choice.task else "detect"
    return DetectionSet(str(file), labels, entries, notes, split=split or choice.split, task=task)


def coco_json_files(folder: Path) -> list[Path]:
    """Finds files named like COCO box annotations in a folder and its direct subfolders; else those of key points."""
    found = [
        file
        for file in _json_files(folder)
        if file.name.startswith("instances_") or _is_named(file) and not _is_of_classes(file)
    ]
    for inner in folders_in(folder):
        files = _json_files(inner)
        is_source = inner.name.lower() == "annotations" or _is_only_coco(inner, files)
        found += [file for file in files if is_source or _is_named(file) and not _is_of_classes(file)]
    return sorted(found) or _keypoint_files(folder)


def _is_only_coco(folder: Path, files: list[Path]) -> bool:
    """Whether the only JSON file of a split's folder is COCO's, which MMDetection calls ``annotation_coco.json``."""
    return len(files) == 1 and split_from_folder(folder) is not None and begins_like_coco(files[0])


def _is_of_classes(file: Path) -> bool:
    """Whether a file lies beside folders and is not COCO's, as ``train/labels.json`` of CVAT's sets of classes."""
    return not file.name.endswith(".coco.json") and bool(folders_in(file.parent)) and not begins_like_coco(file)


def _is_named(file: Path) -> bool:
    return file.name.lower() in _NAMES or file.name.lower().endswith(".coco.json")


def _keypoint_files(folder: Path) -> list[Path]:
    """Returns the files of poses, which have boxes too, in a folder and its ``annotations``."""
    places = [place for place in (folder, folder / "annotations") if place.is_dir()]
    return [file for place in places for file in files_in(place, ".json") if file.name.startswith("person_keypoints_")]


def _json_files(folder: Path) -> list[Path]:
    return [file for file in _all_json(folder) if not file.name.startswith(_WITHOUT_BOXES)]


def _all_json(folder: Path) -> list[Path]:
    return files_in(folder, ".json")


def _split_of(file: Path) -> Split | None:
    """Returns the split in the file's name or, for ``valid/_annotations.coco.json``, its folder's."""
    return split_from_name(file.name) or split_from_folder(file.parent)


def _source(path: Path, choice: Choice) -> _Source:
    wanted = choice.split
    if path.is_dir():
        files = coco_json_files(path) or _json_files(path)
        if choice.task == "pose":
            files = _keypoint_files(path) or files
        if len(files) == 1 and _split_of(files[0]) is None:
            return _undeclared(files[0], wanted)
    else:
        own = _split_of(path)
        if own is None:
            return _undeclared(path, wanted)
        if own == wanted:
            return _Source(path, own, [])
        if (own, wanted) == ("val", "test"):
            return _Source(path, own, [f"{path.name} is of the val split, which is used as the test split"])
        files = [*_siblings(path).values()] or _json_files(path.parent)
    if not files:
        raise _no_boxes(path)
    by_split: dict[Split, list[Path]] = {}
    for file in files:
        if (split := _split_of(file)) is not None:
            by_split.setdefault(split, []).append(file)
    got = ", ".join(file.name for file in files[:8])
    split, notes = available_split(by_split, wanted, f"{path}: COCO's JSON files", got)
    return _Source(by_split[split][0], split, [*notes, *notes_on_others(by_split[split], split)])


def _no_boxes(path: Path) -> DataError:
    names = some_of(file.name for place in (path, path / "annotations") if place.is_dir() for file in _all_json(place))
    return DataError(
        f"{path}: expected a COCO JSON file with boxes, such as instances_val2017.json, got {names}",
        hint="give another file by its path, as coco:FILE",
    )


def _undeclared(file: Path, wanted: Split) -> _Source:
    return _Source(file, None, notes_on_drawn(wanted))


def _siblings(file: Path) -> dict[Split, Path]:
    """Returns the files of all splits: those with the same name up to the split, in the file's folder or next to it."""
    if split_from_name(file.name):
        same = [each for each in files_in(file.parent, ".json") if without_split(each.name) == without_split(file.name)]
    else:
        folders = folders_in(file.parent.parent) if split_from_folder(file.parent) else []
        same = [
            folder / file.name for folder in folders if split_from_folder(folder) and (folder / file.name).is_file()
        ]
    return {split: each for each in reversed(same) if (split := _split_of(each)) is not None}


def _images(content: CocoFile, file: Path, tally: Tally) -> list[tuple[Image, Path, tuple[int, int], str]]:
    """Returns the images that exist, each with its path, its size in px and its place in the file."""
    folders = _image_folders(file)
    finder, found = Finder(folders), list[tuple[Image, Path, tuple[int, int], str]]()
    first_by_id: dict[Id, Image] = {}
    missing: DataError | None = None
    for i, image in enumerate(content.images):
        where = f"images[{i}] of {file.name}"
        if same_id(image.id) in first_by_id:
            error = DataError(f"{file}: images[{i}].id: expected a unique id, got a duplicate: {image.id!r}")
            tally.skip("images whose id is a duplicate", error)
            continue
        first_by_id[same_id(image.id)] = image
        path = finder.find(image.file_name)
        if path is None:
            hint = _hint_on_missing_image(image.file_name, folders) if missing is None else ""
            error = _no_image(file, i, image.file_name, folders, hint)
            missing = missing or error
            tally.skip("images without a file", error)
            continue
        try:
            found.append((image, path, image.size or image_size(path), where))
        except DataError as e:
            tally.skip("images that cannot be read", e)
    if missing is not None and not found:
        raise missing
    tally.moved += finder.moved
    return found


def _image_folders(file: Path) -> list[Path]:
    """Returns the folders that the images' file names may be relative to."""
    split = file.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    near = [file.parent, *(file.parent / name for name in ("images", "data", split))]
    own = _split_of(file)
    near += [folder for place in (file.parent, file.parent.parent) for folder in _folders_of(place, own)]
    beside = (split, "images", "data", f"images/{split}", f"data/{split}", "JPEGImages", "")
    return near + [file.parent.parent / name for name in beside]


def _folders_of(place: Path, split: Split | None) -> list[Path]:
    return [folder for folder in folders_in(place) if split is not None and split_from_folder(folder) == split]


def _hint_on_missing_image(name: str, folders: Iterable[Path]) -> str:
    stem = name.replace("\\", "/").rpartition(".")[0]
    found = first_file(folder / f"{stem}{suffix}" for folder in folders for suffix in image_suffixes() if stem)
    return f"{found} has another suffix: correct that in file_name" if found else hint_on_prefix(name)


def _no_image(file: Path, place: int, name: str, folders: Iterable[Path], hint: str) -> DataError:
    searched = ", ".join(map(str, folders))
    return DataError(
        f"{file}: images[{place}].file_name: expected a file in one of {searched}, got none named {name[:200]!r}",
        hint=hint,
    )


def _classes(content: CocoFile, file: Path, tally: Tally) -> tuple[tuple[str, ...], dict[Id, int]]:
    """Returns the class names of all splits, and the class of each category id of this file."""
    names = names_of_categories(content, file, tally)
    own = tuple(dict.fromkeys(names.values()))
    united = own if is_coco(own) else _united(own, file)
    labels = COCO_NAMES if is_coco(united) else united
    place = {name: i for i, name in enumerate(united)}
    return labels, {same_id(key): place[name] for key, name in names.items()}


def _united(own: tuple[str, ...], file: Path) -> tuple[str, ...]:
    """Unites the class names of all splits, train first; splits that were exported apart number them differently."""
    siblings = _siblings(file)
    found: dict[str, None] = {}
    for split in ("train", "val", "test"):
        other = siblings.get(split)
        if other == file:
            found |= dict.fromkeys(own)
        elif other is not None:
            found |= dict.fromkeys(names_of_categories(coco_file(other), other, Tally()).values())
    return tuple(found | dict.fromkeys(own))


def _box_lists(
    content: CocoFile,
    sizes: dict[Id, tuple[int, int]],
    class_of: dict[Id, int],
    file: Path,
    tally: Tally,
    needed: str,
) -> dict[Id, BoxList]:
    lists = {key: BoxList(size, tally) for key, size in sizes.items()}
    listed = {same_id(image.id) for image in content.images}
    seen: set[tuple[Any, ...]] = set()
    forms = CornerBoxes("[x, y, width, height]", _WRITE_SIZES)
    for i, annotation in enumerate(content.annotations):
        where = f"{file}: annotations[{i}]"
        image, category = same_id(annotation.image_id), same_id(annotation.category_id)
        if image not in listed:
            message = f"{where}.image_id: expected the id of an image, got {annotation.image_id!r}"
            tally.skip("annotations of images that are not listed", DataError(message), is_box=True)
        elif category not in class_of:
            tally.skip("annotations of unknown categories", _unknown(where, annotation, class_of), is_box=True)
        elif not annotation.bbox and not _has_mask(annotation):
            message = f"{where}: expected a bbox or a segmentation, got neither"
            error = DataError(message, hint="classes of whole images are read from a folder for each class")
            tally.skip("annotations without a box", error, is_box=True)
        elif missing := _missing_shape(annotation, needed):
            message = f"{where}: expected {missing}, got none"
            tally.skip(f"annotations without {missing}", DataError(message), is_box=True)
        elif annotation.id is not None and annotation.content in seen:
            message = f"{where}.id: expected a unique annotation, got a copy of {annotation.id!r}"
            tally.skip("copies of annotations", DataError(message))
        elif image in lists:  # else its image was skipped
            seen.add(annotation.content)
            _add(lists[image], forms, annotation, class_of[category], where, needed)
    forms.require_sizes()
    return lists


def _add(boxes: BoxList, forms: CornerBoxes, annotation: Annotation, label: int, where: str, needed: str) -> None:
    try:
        corners = corners_of(annotation, where, boxes.size)
    except DataError as e:
        boxes.tally.skip_faulty(e)
        return
    if not annotation.bbox:
        boxes.tally.derived += 1
    elif annotation.bbox_mode is None:
        x1, y1, x2, y2 = corners
        forms.add((x1, y1, x2 - x1, y2 - y1), corners, boxes.size, f"{where}.bbox")
    boxes.add(
        corners,
        label,
        f"{where}.bbox",
        ignored=annotation.is_crowd,
        shape=_shape(annotation) if needed else None,
    )


def _missing_shape(annotation: Annotation, needed: str) -> str:
    """Returns what an annotation of a task with shapes does not have; empty if it has all."""
    if not isinstance(annotation, ShapedAnnotation):
        return ""
    if needed == "masks" and not _has_mask(annotation):
        return "a mask"
    numbers = annotation.keypoints or []
    return "key points" if needed == "keypoints" and (not numbers or len(numbers) % 3) else ""


def _has_shape(annotation: Annotation, needed: str) -> bool:
    if needed != "keypoints":
        return _has_mask(annotation)
    return isinstance(annotation, ShapedAnnotation) and bool(annotation.keypoints)


def _has_mask(annotation: Annotation) -> bool:
    return isinstance(annotation, ShapedAnnotation) and bytes(annotation.segmentation) not in (b"", b"null", b"[]")


def _shape(annotation: Annotation) -> ObjectShape | None:
    if not isinstance(annotation, ShapedAnnotation):
        return None
    # A copy, since a Raw keeps the whole file in memory.
    mask = bytes(annotation.segmentation) or None
    return ObjectShape(mask, tuple(annotation.keypoints or ()), annotation.area or 0.0)


def _unknown(where: str, annotation: Annotation, class_of: dict[Id, int]) -> DataError:
    known = ", ".join(map(str, list(class_of)[:8])) + (", …" if len(class_of) > 8 else "")
    return DataError(f"{where}.category_id: expected one of {known}, got {annotation.category_id!r}")
