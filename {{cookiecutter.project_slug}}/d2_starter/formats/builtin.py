"""detectron2's own datasets, by name. No file is read: it knows where they are expected."""

TASKS = {
    "coco_2014": ["boxes", "masks"],
    "coco_2017": ["boxes", "masks"],
    "keypoints_coco_2014": ["boxes", "keypoints"],
    "keypoints_coco_2017": ["boxes", "keypoints"],
    "coco_2017_panoptic_separated": ["boxes", "masks", "panoptic"],
    "lvis_v0.5": ["boxes", "masks"],
    "lvis_v1": ["boxes", "masks"],
    "voc_2007": ["boxes"],
    "voc_2012": ["boxes"],
    "ade20k_sem_seg": ["semantic"],
}
NEEDS = f"one of the names {', '.join(TASKS)}"
SPLITS = {name: {split: f"{name}_{split}" for split in ("train", "val")} for name in TASKS}
SPLITS["voc_2007"] = {"train": "voc_2007_trainval", "val": "voc_2007_test"}
SPLITS["coco_2017_panoptic_separated"] = {
    split: f"coco_2017_{split}_panoptic_separated" for split in ("train", "val")
}
# As typed, which may be the name of a split: of the dataset.
NAMES = {typed: name for name in TASKS for typed in (name, *SPLITS[name].values())}


def entry(name: str) -> dict:
    """Returns what datasets.json says of one of them."""
    about = {"name": name, "format": "builtin", "root": "", "classes": [], "tasks": TASKS[name]}
    return about | {"splits": {split: {"name": full} for split, full in SPLITS[name].items()}}
