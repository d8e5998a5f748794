"""Cityscapes: street scenes with masks of 8 classes and a class of 19 for each pixel.

detectron2's loader of its instances imports a package that nobody has, at the commit of
pyproject.toml; that of its label maps needs files that are not in the download. data/label_maps.py
makes both from the PNGs.
"""

import os

from .base import Sources, Split, split_of
from .files import Tree, plain, read_json
from .problems import Unusable

NEEDS = "leftImg8bit/ and gtFine/"
THINGS = "person rider car truck bus train motorcycle bicycle".split()
STUFF = """road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain
    sky""".split()
CLASSES = [name.replace("_", " ") for name in STUFF] + THINGS


def find(tree: Tree) -> Sources:
    """Finds the cities below leftImg8bit and gtFine."""
    found: Sources = {}
    if not tree.given and {"leftImg8bit", "gtFine"} <= set(tree.listed("")[1]):
        for name in tree.listed("gtFine")[1]:
            if split_of(name) and name in tree.listed("leftImg8bit")[1]:
                source = {"labels": f"gtFine/{name}", "images": f"leftImg8bit/{name}"}
                found.setdefault(split_of(name), []).append(source)
    return found


def read(split: Split):
    """Reads the images; for a scan the polygons too. Those of test have none of the classes."""
    labels, images = split.source["labels"], split.source["images"]
    split.classes, split.stuff = list(THINGS), list(CLASSES)
    split.tasks = {"boxes", "masks", "semantic"}
    for folder in split.tree.folders(images):
        for name in split.tree.names(folder):
            if not name.endswith("_leftImg8bit.png"):
                continue
            city = os.path.relpath(folder, images)
            base = f"{labels}/{city}/{name.removesuffix('_leftImg8bit.png')}_gtFine"
            file = split.tree.path(f"{folder}/{name}")
            record = split.add_image(file, name.removesuffix(".png"), 2048, 1024)
            record["labels"] = split.tree.path(base)
            if split.is_light:
                _add_objects(split, record, split.tree.path(f"{base}_polygons.json"))


def _add_objects(split, record, file):
    try:
        data = read_json(file)
        record |= {"width": int(data["imgWidth"]), "height": int(data["imgHeight"])}
        for thing in data["objects"]:
            if thing["label"] in THINGS:
                polygon = [float(value) for point in thing["polygon"] for value in point]
                split.add_object(record, thing["label"], polygons=[polygon])
    except FileNotFoundError:
        split.problems.add("labels-missing", file)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, Unusable):
            raise
        text = f"{file!a} is not one of Cityscapes' polygon files ({plain(error)})"
        raise Unusable(text) from None
