from edgekit.data.coco import COCO_CATEGORY_IDS, COCO_NAMES, is_coco
from edgekit.recipe.schema import load_recipe


def test_ids_belong_to_the_names_that_coco_s_annotations_give_them():
    assert len(COCO_NAMES) == len(COCO_CATEGORY_IDS) == len(set(COCO_NAMES)) == 80
    ids = dict(zip(COCO_NAMES, COCO_CATEGORY_IDS, strict=True))
    # from instances_val2017.json, around every gap
    assert {name: ids[name] for name in ("person", "fire hydrant", "stop sign", "cow", "backpack", "umbrella")} == {
        "person": 1, "fire hydrant": 11, "stop sign": 13, "cow": 21, "backpack": 27, "umbrella": 28,
    }  # fmt: skip
    assert {name: ids[name] for name in ("handbag", "bottle", "wine glass", "potted plant", "bed", "dining table")} == {
        "handbag": 31, "bottle": 44, "wine glass": 46, "potted plant": 64, "bed": 65, "dining table": 67,
    }  # fmt: skip
    assert {name: ids[name] for name in ("toilet", "tv", "refrigerator", "book", "toothbrush")} == {
        "toilet": 70, "tv": 72, "refrigerator": 82, "book": 84, "toothbrush": 90,
    }  # fmt: skip


def test_darknet_s_names_are_recognized_and_others_are_not():
    assert is_coco(COCO_NAMES) and is_coco(load_recipe("yolov3-tiny").labels.names)
    assert not is_coco(COCO_NAMES[:79]) and not is_coco(COCO_NAMES[::-1]) and not is_coco(())
