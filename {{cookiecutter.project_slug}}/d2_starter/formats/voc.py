"""Pascal VOC's XML, one file an image, with any classes, layouts and types of images."""

import contextlib
import os
import re
from collections import Counter

from .base import Sources, Split, split_of
from .files import Tree, is_image, read_lines, read_text, read_xml, stem
from .problems import Unusable

NEEDS = "Pascal VOC's XML files, one per image, in Annotations/ or beside the images"
SIDES = ("xmin", "ymin", "xmax", "ymax")


def find(tree: Tree) -> Sources:
    """Finds folders of XML files, and the lists in ImageSets/Main beside them."""
    found: Sources = {}
    used = ()
    for folder in tree.folders() if not tree.given else ():
        names = [name for name in tree.names(folder) if name.lower().endswith(".xml")]
        is_whole = used and (folder + "/").startswith(used)  # its sub-folders belong to it
        if is_whole or not names and not os.path.basename(folder) == "Annotations":
            continue
        files = list(tree.files(".xml", folder))
        if (
            not files
            or "<object>" not in (text := read_text(tree.path(files[0])))
            and ("<annotation" not in text or "<annotations" in text)
        ):
            continue
        above = os.path.dirname(folder)
        lists = f"{above}/ImageSets/Main".lstrip("/")
        # Not aeroplane_train.txt, which lists the images with aeroplanes.
        splits = [n for n in tree.names(lists) if re.fullmatch(r"[a-z]+\d*\.txt", n)]
        splits = [name for name in splits if split_of(stem(name))]
        if splits or os.path.basename(folder) == "Annotations":
            used = (*used, folder + "/")
        images = image_folder(tree, {stem(os.path.basename(f)) for f in files}, split_of(folder))
        for name in splits:
            source = {"list": f"{lists}/{name}", "annotations": folder, "images": images}
            found.setdefault(split_of(stem(name)), []).append(source)
        if not splits:
            source = {"list": "", "annotations": folder, "images": images}
            found.setdefault(split_of(folder), []).append(source)
    return found


def image_folder(tree: Tree, stems: set[str], split: str, unwanted: str = "^$") -> str:
    """Returns the folder that, with those below it, has most images of these stems."""
    found: dict[str, set[str]] = {}
    for folder in tree.folders():
        if re.search(unwanted, folder.lower()):
            continue
        inside = {stem(name) for name in tree.names(folder) if is_image(name)} & stems
        while inside:
            found.setdefault(folder, set()).update(inside)
            if not folder:
                break
            folder = os.path.dirname(folder)
    return max(
        found,
        key=lambda f: (len(found[f]), split_of(f) == split, f.count("/") + bool(f)),
        default="",
    )


def read(split: Split):
    """Reads the XML files of a list, or all; broken ones are left out."""
    folder = split.source["annotations"]
    files = {stem(os.path.relpath(f, folder or ".")): f for f in split.tree.files(".xml", folder)}
    short = {os.path.basename(key): key for key in files}
    if split.source["list"]:
        listed = [_listed(line, files, short) for line in read_lines(split.path("list"))]
    else:
        listed = sorted(files)
    missing = [name for name in listed if name not in files]
    split.problems.add_all("labels-missing", missing, lambda name: f"{name} has no XML file")
    parsed = []
    for name in [name for name in listed if name in files]:
        path = split.tree.path(files[name])
        try:
            parsed.append((name, path, read_xml(path)))
        except Unusable as error:
            split.problems.add("annotations-invalid", str(error))
    if listed and not parsed and not missing:
        first = split.problems.examples["annotations-invalid"][0]
        raise Unusable(f"none of the files is Pascal VOC's XML: {first}")
    claims = Counter(_file_name(root) for _, _, root in parsed)
    rotated = 0
    for name, path, root in parsed:
        rotated += _read_one(split, name, path, root, claims)
    if rotated and not any(record["annotations"] for record in split.records):
        raise Unusable(
            f"{split.path('annotations')!a} has rotated boxes (robndbox), which detectors of"
            " upright boxes cannot learn; export upright boxes (bndbox), or polygons as COCO's JSON"
        )


def _listed(line, files, short):
    """Returns the key in `files` of a line: a name, maybe with an ending, a folder, or -1, 0, 1."""
    alone = re.sub(r"\s+(-1|0|1)$", "", line)
    for name in (line, stem(line), alone, stem(alone)):
        for key in (name, short.get(os.path.basename(name))):
            if key in files:
                return key
    return stem(alone)


def _file_name(root):
    return re.split(r"[\\/]", (root.findtext("filename") or "").strip())[-1]


def _image(split, name, path, root, claims):
    """Returns the image's path: <filename> decides, where it names one that no other file names."""
    folder, tree = split.source["images"], split.tree
    named, own = _file_name(root), os.path.basename(name)
    usual, _ = tree.find_image(named or own, folder)
    if named and stem(named) == own and tree.has(usual):
        return split.tree.path(usual)
    beside = [f"{folder}/{name}{ending}".lstrip("/") for ending in (".jpg", ".png")]
    by_name = next(filter(tree.has, beside), None) or tree.find_image(own, folder)[0]
    if named and tree.has(usual) and claims[named] == 1:
        if tree.has(by_name) and stem(named) != own:
            text = f"{path} says {named}, which it is read as"
            split.problems.add("image-name-contradicts", text)
        return split.tree.path(usual)
    if named and stem(named) != own:
        split.problems.add("image-name-contradicts", f"{path} says {named}; it is read as {own}")
    return split.tree.path(by_name if tree.has(by_name) else beside[0])


def _read_one(split, name, path, root, claims):
    def number(element, key):
        try:
            return float(element.findtext(key) or 0)
        except ValueError:
            return 0.0

    width, height = number(root, "size/width"), number(root, "size/height")
    record = split.add_image(_image(split, name, path, root, claims), name, width, height)
    rotated = 0
    for place, thing in enumerate(root.iterfind("object"), start=1):
        where = f"{path}, object {place}"
        box = thing.find("bndbox")
        if box is None and thing.find("robndbox") is not None:
            split.problems.add("box-rotated", where)
            rotated += 1
            continue
        corners = [None] * 4 if box is not None and len(box) else None
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            x0, y0, x1, y1 = (float(box.findtext(side)) for side in SIDES)
            # VOC counts pixels from 1, and a box includes its last pixel: the smaller of two ends,
            # whichever is named so, is one less here.
            corners = [x0 - (x0 <= x1), y0 - (y0 <= y1), x1 - (x0 > x1), y1 - (y0 > y1)]
        split.add_object(record, thing.findtext("name"), corners, where=where)
    return rotated
