"""LVIS: COCO's JSON, with classes that are looked for in some images only."""

from . import coco
from .base import Sources, Split
from .files import Tree

NEEDS = "a JSON file whose images have neg_category_ids and coco_url"


def find(tree: Tree) -> Sources:
    """Finds the JSON files of LVIS."""
    found = coco.find(tree, "lvis")
    for split, sources in found.items():
        for source in sources:
            file = source["annotations"]
            source["images"] = coco.image_folder(tree, file, split, key="coco_url")
    return found


def read(split: Split):
    """Reads images, annotations and categories."""
    coco.read(split, "lvis")
