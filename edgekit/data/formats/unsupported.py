"""Recognizes formats of other programs that EdgeKit does not read, so that a message can name them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from edgekit.data.files import files_in, folders_in
from edgekit.data.formats.text_lines import utf8_bytes
from edgekit.data.images import image_suffixes
from edgekit.errors import DataError

__all__ = ["TABLE_OF_IMAGES_HINT", "Unsupported", "is_table_of_images", "program_of_line", "unsupported_format"]

_START_BYTES = 1 << 16
_EXPORT = "export or convert it to COCO, VOC or YOLO, which are read"
_ARRAYS = "write images as files, in a folder for each class, and tables as CSV"
TABLE_OF_IMAGES_HINT = (
    "tables that name images are not read: write a folder for each class, or export boxes as COCO, VOC or YOLO"
)
_BY_SUFFIX = {
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"): ("an archive", "unpack it, and give its folder"),
    (".geojson",): ("GeoJSON", _EXPORT),
    (".odgt",): ("CrowdHuman's annotations", _EXPORT),
    (".manifest",): ("a manifest of Amazon SageMaker Ground Truth", _EXPORT),
    (".tfrecord", ".tfrecords", ".record"): ("TFRecord files", _EXPORT),
    (".jsonl", ".ndjson"): ("a file with a JSON object in each line", _EXPORT),
    (".parquet", ".arrow", ".feather"): ("a table of Apache Arrow", _ARRAYS),
    (".xlsx", ".xls", ".ods"): ("a spreadsheet", "save it as CSV"),
    (".npz", ".npy"): ("NumPy arrays", _ARRAYS),
    (".h5", ".hdf5", ".mat", ".pkl", ".pickle"): ("a file of arrays", _ARRAYS),
    (".mdb", ".lmdb"): ("a database of LMDB", _ARRAYS),
    (".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".dcm"): (
        "photos that Pillow does not read",
        "convert them to JPEG or PNG",
    ),
    (".mp4", ".avi", ".mov", ".mkv", ".webm"): ("videos", "write their frames as images"),
    (".wav", ".mp3", ".flac", ".ogg"): ("sounds", "write their features as a CSV table"),
    (".arff", ".libsvm", ".svm"): ("a table of another program", "save it as CSV"),
}
# Words of which each file of a program has one, and no COCO JSON has any.
_BY_JSON = {
    (b'"imagePath"', b'"shape_type"'): "labelme's JSON",
    (b'"shape_attributes"', b'"_via_settings"', b'"_via_img_metadata"'): "VIA's JSON",
    (b'"classTitle"', b'"geometry_config"', b'"projectType"'): "Supervisely's JSON",
    (b'"completed_by"', b'"from_name"', b'"rectanglelabels"', b'"original_width"'): "Label Studio's own JSON",
    (b'"label_id"', b'"media_type"'): "Datumaro's JSON",
    (b'"slot_names"', b'"source_info"', b"darwin_json"): "V7's Darwin JSON",
    (b'"box2d"', b'"poly2d"'): "the JSON of BDD100K or Scalabel",
    (b'"boundingBox"',): "VoTT's JSON",
    (b'"coordinates"',): "CreateML's JSON",
    (b'"bounding_box"',): "FiftyOne's JSON of boxes",
    (b'"imgHeight"',): "the JSON of Cityscapes",
    (b'"data_row"',): "Labelbox's JSON",
    (b'"bbox_mode"',): "the JSON of Detectron2's dataset dicts",
    (b'"_media_type"', b'"sample_fields"', b'"_sample_collection_id"'): "FiftyOne's own JSON",
}
_BY_NAME = {
    "_classes.csv": ("a table with several classes for each image", TABLE_OF_IMAGES_HINT),
    "_annotations.csv": ("a table of boxes", TABLE_OF_IMAGES_HINT),
    "bounding_boxes.labels": ("Edge Impulse's labels", _EXPORT),
    "info.labels": ("Edge Impulse's labels", _EXPORT),
    "data_batch_1": ("CIFAR's arrays", _ARRAYS),
    "data_batch_1.bin": ("CIFAR's arrays", _ARRAYS),
    "_annotations.txt": ("a list of images with their boxes in px", _EXPORT),
    "metadata.jsonl": ("Hugging Face's imagefolder with metadata", TABLE_OF_IMAGES_HINT),
    "metadata.csv": ("Hugging Face's imagefolder with metadata", TABLE_OF_IMAGES_HINT),
}
_BY_START_OF_NAME = {
    "captions_": ("COCO's captions", "give its annotations with boxes, such as instances_val2017.json"),
    "panoptic_": ("COCO's panoptic annotations", "give its annotations with boxes, such as instances_val2017.json"),
}
_IMAGE_COLUMNS = frozenset(
    "filename file_name file filepath image image_id imageid image_name image_path img img_path path".split()
)


# Words that are typical together.
_BY_SEVERAL_WORDS = {
    (b'"classes"', b'"labels"'): (
        "FiftyOne's JSON of classes",
        "export it as a folder for each class",
    ),
    (b'"image_id"', b'"score"'): ("results of a detector", "give the annotations, such as instances_val2017.json"),
}
_IMAGE_AND_CLASS = re.compile(r"\S.*\.(?:bmp|jpe?g|png|tiff?|webp)[ \t,;]\s*[\w-]{1,40}", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)", re.ASCII)
_DOTA_FIELDS, _KITTI_FIELDS, _VISDRONE_COMMAS, _OID_NUMBERS = 10, (15, 16), 7, 4


class Unsupported(NamedTuple):
    """A format that is not read.

    Attributes:
        name: what it is, for a message.
        hint: what to do.
    """

    name: str
    hint: str


def unsupported_format(path: Path, *, levels: int = 3) -> Unsupported | None:
    """Returns the format of a file or a folder if it is one that is known and not read, else None.

    Args:
        path: the file or the folder.
        levels: how many levels of folders are searched, the folder itself included.
    """
    return next((found for file in _candidates(path, levels) if (found := _of_file(file)) is not None), None)


def is_table_of_images(header: tuple[str, ...]) -> bool:
    """Whether one of a table's columns names images: one called so, or ``id`` if the class is the only other one."""
    names = [name.strip(" \t\r\"'").lower() for name in header]
    return not _IMAGE_COLUMNS.isdisjoint(names) or (len(names) == 2 and names[0] == "id")


def program_of_line(line: str) -> str | None:
    """Returns the name of the labels of which a line of text is typical, if it is one that is known and not read."""
    fields = line.split()
    words = [_NUMBER.fullmatch(field) is None for field in fields]
    if len(fields) in _KITTI_FIELDS and words == [True] + [False] * (len(fields) - 1):
        return "labels of KITTI"
    if len(fields) == _DOTA_FIELDS and words == [False] * 8 + [True, False] or line.startswith("imagesource:"):
        return "labels of DOTA, which have corners in px, a name and a difficulty"
    if len(fields) > _OID_NUMBERS and words[0] and words[-_OID_NUMBERS:] == [False] * _OID_NUMBERS:
        if max(map(float, fields[-_OID_NUMBERS:])) > 1:  # no fractions, as YOLO's
            return "labels of OIDv4 ToolKit, which have a name and corners in px"
    if len(fields) == 1 and line.count(",") >= _VISDRONE_COMMAS:
        return "labels with commas, as VisDrone and MOT have them"
    return None


def _candidates(path: Path, levels: int) -> Iterator[Path]:
    """Yields a file, or the first files of each kind in a folder and in the levels below it."""
    if not path.is_dir():
        yield path
        return
    level = [path]
    for _ in range(levels):
        for folder in level:
            by_suffix: dict[str, Path] = {}
            for file in _readable(files_in, folder):
                if file.name.lower() in _BY_NAME:
                    yield file
                by_suffix.setdefault(file.suffix.lower(), file)
            yield from by_suffix.values()
        level = [inner for folder in level for inner in _readable(folders_in, folder)][:100]


def _readable(listing: Callable[[Path], list[Path]], folder: Path) -> list[Path]:
    try:
        return listing(folder)
    except DataError:  # a folder of other users
        return []


def _of_file(file: Path) -> Unsupported | None:
    if found := _BY_NAME.get(file.name.lower()):
        return Unsupported(*found)
    suffix = file.suffix.lower()
    if suffix in image_suffixes():  # plugins of Pillow read further ones
        return None
    if suffix == ".xml":
        return Unsupported("CVAT's own XML", _EXPORT) if b"<annotations" in _start(file) else None
    if suffix == ".csv":
        header = _start(file).partition(b"\n")[0].decode("utf-8", "replace")
        images = is_table_of_images(tuple(header.split(",")))
        return Unsupported("a table that names images", TABLE_OF_IMAGES_HINT) if images else None
    if suffix == ".txt":
        return _of_text(file)
    if named := next((found for suffixes, found in _BY_SUFFIX.items() if suffix in suffixes), None):
        return Unsupported(*named)
    if suffix != ".json":
        return None
    if named := next((found for word, found in _BY_START_OF_NAME.items() if file.name.startswith(word)), None):
        return Unsupported(*named)
    start = _start(file)
    program = next((name for words, name in _BY_JSON.items() if any(word in start for word in words)), None)
    if program is not None:
        return Unsupported(program, _EXPORT)
    several = (found for words, found in _BY_SEVERAL_WORDS.items() if all(word in start for word in words))
    found = next(several, None)
    return Unsupported(*found) if found else None


def _of_text(file: Path) -> Unsupported | None:
    if file.name.lower().startswith("wider_face"):
        return Unsupported("the lists of WIDER FACE", _EXPORT)
    line = _start(file).partition(b"\n")[0].decode("utf-8", "replace").strip()
    if _IMAGE_AND_CLASS.fullmatch(line):
        return Unsupported("a list of images with their classes", TABLE_OF_IMAGES_HINT)
    program = program_of_line(line)
    return Unsupported(program, _EXPORT) if program else None


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            return utf8_bytes(content.read(_START_BYTES))
    except OSError:  # without access; reading the data set says so
        return b""
