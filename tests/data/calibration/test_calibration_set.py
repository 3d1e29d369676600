import hashlib

import numpy as np
import pytest
from PIL import Image

from edgekit.data.calibration.calibration_set import calibration_set, calibration_set_names, named_arrays
from edgekit.data.calibration.manifest import manifest_from_file
from edgekit.errors import CalibrationError, UsageError
from edgekit.recipe.schema import Preprocess, shipped
from edgekit.specs import TensorSpec

IMAGES = TensorSpec("images", "float32", (1, 3, 16, 16))


def save_image(path, seed=0, size=(20, 10)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save_image(tmp_path / f"{i}.png", seed=i)
    return tmp_path


def manifest_text(image, **changes):
    fields = {
        "file": image.name,
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
        "license": "CC0-1.0",
        "author": "me",
        "source": "here",
    } | changes
    return 'title = "a set"\n[[images]]\n' + "".join(f"{key} = {value!r}\n" for key, value in fields.items())


def test_shipped_set_has_32_different_views_whose_images_are_free_and_whole():
    sample = calibration_set("sample")
    images = list(sample)
    assert "sample" in calibration_set_names()
    assert len(sample) == len(images) == len({each.id for each in images}) == 32 and not sample.skipped
    assert len({each.value.tobytes() for each in images}) == 32
    assert all(each.value.dtype == np.uint8 and min(each.value.shape[:2]) >= 150 for each in images)
    manifest = manifest_from_file(shipped("calibration") / "sample.toml")
    assert {image.license for image in manifest.images} <= {"CC0-1.0", "public domain"}
    files = [shipped("calibration") / image.file for image in manifest.images]
    assert sum(file.stat().st_size for file in files) < 600_000
    assert sorted(files) == sorted((shipped("calibration") / "sample").iterdir())


def test_limit_of_a_manifest_takes_every_image_before_a_second_view_of_any():
    first = [each.id for each in calibration_set("sample", limit=8)]
    assert len({name.split()[0] for name in first}) == 8


def test_views_are_crops_and_mirror_images(tmp_path):
    pixels = save_image(tmp_path / "a.png", size=(20, 10))
    text = manifest_text(tmp_path / "a.png")
    text += '[[views]]\nname = "whole"\n[[views]]\nname = "right"\ncrop = [0.5, 0.0, 1.0, 1.0]\nmirror = true\n'
    (tmp_path / "set.toml").write_text(text)
    whole, right = calibration_set(tmp_path / "set.toml")
    assert (whole.id, right.id) == ("a.png (whole)", "a.png (right)")
    np.testing.assert_array_equal(whole.value, pixels)
    np.testing.assert_array_equal(right.value, pixels[:, :9:-1])


def test_folder_is_read_in_order_of_names_and_again_on_every_iteration(folder):
    found = calibration_set(folder)
    assert [each.id for each in found] == [each.id for each in found] == [f"{i}.png" for i in range(6)]
    np.testing.assert_array_equal(next(iter(found)).value, np.asarray(Image.open(folder / "0.png")))


def test_limit_spreads_over_the_folder(folder):
    assert [each.id for each in calibration_set(folder, limit=3)] == ["0.png", "2.png", "4.png"]
    assert len(calibration_set(folder, limit=100)) == 6
    with pytest.raises(UsageError, match="limit: expected at least 1, got 0"):
        calibration_set(folder, limit=0)


def test_images_are_read_one_at_a_time(folder):
    iterator = iter(calibration_set(folder))
    next(iterator)
    (folder / "1.png").unlink()
    save_image(folder / "1.png", seed=100)
    np.testing.assert_array_equal(next(iterator).value, np.asarray(Image.open(folder / "1.png")))


def test_broken_images_are_skipped_and_named(folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "4.png").write_text("not an image")
    found = calibration_set(folder)
    for _ in range(2):
        assert [each.id for each in found] == ["0.png", "2.png", "3.png", "5.png"]
        assert [text.split(":")[0] for text in found.skipped] == ["1.png", "4.png"]


def test_links_to_nothing_are_skipped_and_named(folder):
    digest = calibration_set(folder).digest
    (folder / "9.png").symlink_to("nowhere.png")
    found = calibration_set(folder)
    assert found.digest != digest and len(found) == 7
    assert len(list(found)) == 6
    assert found.skipped == ["9.png: expected an image, got a link to nowhere.png, which does not exist"]


def test_error_when_all_images_are_broken(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(CalibrationError, match=r"all 1 files are broken: a\.png: .*cannot read"):
        list(calibration_set(tmp_path))


def test_error_on_a_folder_with_nothing_to_calibrate_with(tmp_path):
    with pytest.raises(CalibrationError, match=r"expected images .*, got none"):
        calibration_set(tmp_path)


def test_error_on_an_unknown_name_names_the_nearest():
    with pytest.raises(UsageError, match="unknown calibration set 'smaple'") as caught:
        calibration_set("smaple")
    assert caught.value.hint == "did you mean sample?"


def test_error_when_an_image_is_not_the_one_that_was_declared(tmp_path):
    save_image(tmp_path / "a.png")
    (tmp_path / "set.toml").write_text(manifest_text(tmp_path / "a.png", sha256="0" * 64))
    with pytest.raises(CalibrationError, match=r"a\.png: expected the sha256 0{64}, got [0-9a-f]{64}"):
        list(calibration_set(tmp_path / "set.toml"))
    (tmp_path / "a.png").unlink()
    with pytest.raises(CalibrationError, match=r"a\.png: expected a readable calibration file, got: No such file"):
        list(calibration_set(tmp_path / "set.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "not valid TOML"),
        ('title = "a"', "images: expected a value, got none"),
        ('title = "a"\nimages = []', r"images: expected .*, got \[\]"),
        ("title = 3\nimages = []", "title: expected a string, got 3"),
        ('title = "a"\n[[images]]\nfile = "x.png"', r"images\[0\]\.sha256: expected a value, got none"),
        ("SHA", r"images\[0\]\.sha256: expected .*, got 'abc'"),
        ("EXTRA", r"images\[0\]\.colour: unknown field"),
        ("CROP", r"crop: expected left < right and top < bottom, got \[0.5, 0.0, 0.5, 1.0\]"),
        ("RANGE", r"views\[0\]\.crop.*: expected .*<= 1.0, got 1.5"),
    ],
)
def test_error_in_a_manifest_names_file_field_and_value(tmp_path, text, message):
    save_image(tmp_path / "a.png")
    view = '[[views]]\nname = "a"\ncrop = [0.5, 0.0, {}, 1.0]\n'
    text = {
        "SHA": manifest_text(tmp_path / "a.png", sha256="abc"),
        "EXTRA": manifest_text(tmp_path / "a.png", colour="red"),
        "CROP": manifest_text(tmp_path / "a.png") + view.format("0.5"),
        "RANGE": manifest_text(tmp_path / "a.png") + view.format("1.5"),
    }.get(text, text)
    (tmp_path / "set.toml").write_text(text)
    with pytest.raises(CalibrationError, match=rf"calibration set .*set\.toml: .*{message}"):
        calibration_set(tmp_path / "set.toml")


def test_error_on_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(CalibrationError, match=r"set\.toml: expected a TOML file, got: No such file"):
        calibration_set(tmp_path / "set.toml")


def test_digest_follows_the_content_and_not_the_names(folder):
    digest = calibration_set(folder).digest
    assert digest == calibration_set(folder).digest and len(digest) == 64
    (folder / "5.png").rename(folder / "9.png")
    assert calibration_set(folder).digest == digest
    assert calibration_set(folder, limit=3).digest != digest
    save_image(folder / "9.png", seed=77)
    assert calibration_set(folder).digest != digest


def test_images_become_inputs_by_the_recipe_s_preprocessing(folder):
    feeds = dict(calibration_set(folder).feeds([IMAGES], Preprocess(resize="letterbox")))
    assert list(feeds) == [f"{i}.png" for i in range(6)]
    assert all(feed["images"].shape == (1, 3, 16, 16) and feed["images"].dtype == np.float32 for feed in feeds.values())


def test_fixed_batch_is_filled_with_the_same_image(folder):
    spec = TensorSpec("images", "float32", (4, 3, 16, 16))
    _, feed = next(calibration_set(folder).feeds([spec], Preprocess()))
    assert feed["images"].shape == (4, 3, 16, 16) and (feed["images"] == feed["images"][:1]).all()


def test_error_on_images_for_a_model_that_takes_none(folder):
    with pytest.raises(CalibrationError, match=r"0\.png: expected arrays for images: float32 .*, got an image"):
        next(calibration_set(folder).feeds([IMAGES], None))


LEFT, RIGHT = TensorSpec("left", "float32", ("N", 4)), TensorSpec("right", "int64", (3,))


def test_arrays_are_inputs_by_name(tmp_path):
    left, right = np.ones((4, 2), np.float32).T, np.arange(3)
    np.savez(tmp_path / "a.npz", left=left, right=right)
    np.savez_compressed(tmp_path / "b.npz", right=right, left=left)
    feeds = list(calibration_set(tmp_path).feeds([LEFT, RIGHT], None))
    assert [name for name, _ in feeds] == ["a.npz", "b.npz"]
    for _, feed in feeds:
        assert list(feed) == ["left", "right"] and feed["left"].flags.c_contiguous
        np.testing.assert_array_equal(feed["left"], left)


def test_one_array_is_the_input_of_a_model_that_has_one(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 4), np.float32))
    ((_, feed),) = calibration_set(tmp_path).feeds([LEFT], None)
    assert feed["left"].shape == (2, 4)
    with pytest.raises(CalibrationError, match="expected arrays left, right, got one unnamed array"):
        list(calibration_set(tmp_path).feeds([LEFT, RIGHT], None))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"left": np.ones((2, 4), np.int64)}, r"expected left: float32 \(N, 4\), got int64 \(2, 4\)"),
        ({"left": np.ones((2, 5), np.float32)}, r"expected left: float32 \(N, 4\), got float32 \(2, 5\)"),
        ({"lft": np.ones((2, 4), np.float32)}, "expected arrays left, got lft, without left"),
    ],
)
def test_error_on_arrays_that_the_model_does_not_take(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(CalibrationError, match=rf"a\.npz: {message}"):
        list(calibration_set(tmp_path).feeds([LEFT], None))


def test_arrays_of_other_names_are_left_out(tmp_path):
    left = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.savez(tmp_path / "a.npz", left=left, rate=np.array(16000), extra=left)
    found = calibration_set(tmp_path)
    ((_, feed),) = found.feeds([LEFT], None)
    assert list(feed) == ["left"] and found.left_out == {"rate", "extra"}


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path, dtype):
    array = np.linspace(0, 1, 8).reshape(2, 4).astype(dtype)
    np.savez(tmp_path / "a.npz", left=array)
    ((_, feed),) = calibration_set(tmp_path).feeds([LEFT], None)
    assert feed["left"].dtype == np.float32
    np.testing.assert_array_equal(feed["left"], array.astype(np.float32))


def test_damaged_and_pickled_arrays_are_skipped(tmp_path):
    np.savez(tmp_path / "0.npz", left=np.ones((2, 4), np.float32))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.ones((2, 4), np.float32))
    for suffix in (".npy", ".npz"):
        whole = (tmp_path / ("whole.npy" if suffix == ".npy" else "0.npz")).read_bytes()
        damage = np.random.default_rng(0)
        for i in range(100):
            broken = bytearray(whole[: damage.integers(len(whole))])
            for place in damage.integers(0, max(1, len(broken)), 3) if broken else ():
                broken[place] = damage.integers(256)
            (tmp_path / f"broken{i}{suffix}").write_bytes(bytes(broken))
    found = calibration_set(tmp_path)
    names = [each.id for each in found]
    assert {"0.npz", "whole.npy"} <= set(names) and len(names) + len(found.skipped) == 203
    assert any(text.startswith("pickled.npy: ") and "Python objects" in text for text in found.skipped)


def test_error_on_a_folder_of_images_and_arrays(folder):
    np.save(folder / "a.npy", np.ones(3))
    with pytest.raises(CalibrationError, match="expected images or numpy files, got both"):
        calibration_set(folder)


def test_hidden_files_are_no_samples(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 2), np.float32))
    for name in ("._a.npy", "._a.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert len(calibration_set(tmp_path)) == 1


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((1, 8), np.int64), "convert it with array.astype('float32')"),
        (np.zeros(8, np.float32), "the first dimension is the batch: add it with array[None]"),
        (np.zeros((16, 8), np.float32), "give each sample by itself, or build with batch=16"),
        (np.zeros((1, 9), np.float32), "build it for those of your task: input={'x': (1, 9)}"),
        (np.zeros((0, 8), np.float32), ""),
        (np.zeros((1, 8), complex), ""),
    ],
)
def test_an_array_that_does_not_fit_says_what_to_do(array: np.ndarray, hint: str) -> None:
    with pytest.raises(CalibrationError) as error:
        named_arrays(array, [TensorSpec("x", "float32", (1, 8))], {}, "a.npy")
    assert error.value.hint.endswith(hint) and bool(error.value.hint) is bool(hint)
