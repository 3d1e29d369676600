import json
from pathlib import Path

import pytest

from edgekit.data.coco_ids import ids_of_images


def write(file: Path, first_image: int, first_category: int, names: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": first_image + i, "file_name": name} for i, name in enumerate(names)]
    categories = [{"id": first_category + i, "name": name} for i, name in enumerate(("Red", "blue"))]
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return file


@pytest.mark.parametrize(
    ("name", "image", "category", "prefix"),
    [("annotations/instances_default.json", 1, 1, ""), ("result.json", 0, 0, "images\\"), ("labels.json", 7, 3, "x/")],
)
def test_ids_are_those_of_the_file_next_to_the_images(
    tmp_path: Path, name: str, image: int, category: int, prefix: str
) -> None:
    names = [f"frame_{i:06d}.png" for i in range(3)]
    file = write(tmp_path / name, image, category, [prefix + each for each in names])
    images = [tmp_path / "images" / each for each in names]
    (tmp_path / "images").mkdir()
    found = ids_of_images(images, tmp_path / "images")
    assert found is not None and found.file == file
    assert list(found.images.values()) == [image, image + 1, image + 2]
    assert found.categories == {"red": category, "blue": category + 1}


def test_ids_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    images = [tmp_path / "images" / name for name in ("a.png", "b.png")]
    assert ids_of_images(images, tmp_path / "images") is None
    write(tmp_path / "result.json", 1, 1, ["a.png"])
    (tmp_path / "labels.json").write_text('["red"]')
    assert ids_of_images(images, tmp_path / "images") is None
    write(tmp_path / "result.json", 1, 1, ["a.png", "b.png", "x/b.png"])
    assert ids_of_images(images, tmp_path / "images") is None
    write(tmp_path / "result.json", 1, 1, ["a.png", "b.png"])
    assert ids_of_images(images, tmp_path / "images") is not None
    write(tmp_path / "annotations" / "instances_other.json", 5, 1, ["a.png", "b.png"])
    assert ids_of_images(images, tmp_path / "images") is None
