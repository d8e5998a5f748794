"""YOLO's text files: a line for each object, in fractions of the image's width and height."""

import os
import re

from .base import (
    MAX_CLASSES,
    Sources,
    Split,
    check_names,
    class_file,
    class_names,
    folders_by_split,
    split_of,
)
from .files import Tree, is_image, plain, read_lines, read_text, read_yaml, spread, stem
from .problems import Unusable

NEEDS = "data.yaml, or images/ and labels/ with one .txt per image"
LABEL = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*$")


def find(tree: Tree) -> Sources:
    """Finds the splits named in data.yaml; without it, folders of images that have label files."""
    if file := _yaml(tree):
        return _yaml_splits(tree, file)
    if tree.given:
        return {}
    labelled = []
    for folder in tree.folders():
        images = [f"{folder}/{n}".lstrip("/") for n in tree.names(folder) if is_image(n)]
        labels = [label_of(image, tree) for image in spread(images, 100)]
        texts = [read_lines(tree.path(label)) for label in labels if label]
        if any(LABEL.match(lines[0]) for lines in texts if lines):
            labelled.append(folder)
    names = class_file(tree)
    groups = {}
    for split, folders in folders_by_split(labelled).items():
        tops = {}
        for folder in folders:  # sub-folders of a split's folder belong together
            parts = folder.split("/")
            at = [i for i, part in enumerate(parts) if split_of(part)]
            tops.setdefault("/".join(parts[: at[-1] + 1]) if at else folder, []).append(folder)
        groups[split] = [{"images": those, "description": names} for those in tops.values()]
    return groups


def _yaml(tree):
    """Returns the YAML file that describes the dataset: the one asked for, or one in the folder."""
    names = [tree.given] if tree.given else tree.names("")
    for name in sorted(names, key=lambda name: name not in ("data.yaml", "dataset.yaml")):
        if name.endswith((".yaml", ".yml")) and os.path.getsize(tree.path(name)) < 1 << 20:
            text = read_text(tree.path(name))
            if re.search("^train *:", text, re.M) and re.search("^(names|nc) *:", text, re.M):
                return name
    return ""


def _yaml_splits(tree, file):
    data = read_yaml(tree.path(file))
    found: Sources = {}
    for key in ("train", "val", "valid", "validation", "test"):
        entries = data.get(key)
        entries = entries if isinstance(entries, list) else [entries] if entries else []
        try:
            images = [_place(tree, file, str(data.get("path") or ""), key, e) for e in entries]
        except Unusable:
            if key != "test":
                raise
            continue
        if images:
            source = {"images": images, "description": file}
            found.setdefault(split_of(key), []).append(source)
    return found


def _place(tree, file, base, key, entry):
    """Returns where images of a split are: Roboflow writes ../train/images for train/images."""
    here = os.path.dirname(tree.path(file))
    inside = re.sub(r"^(\.\.?/)+", "", str(entry).replace("\\", "/"))
    places = [os.path.join(here, base, str(entry)), os.path.join(here, str(entry))]
    parts = inside.split("/")
    places += [os.path.join(here, *parts[at:]) for at in range(len(parts))]
    for place in map(os.path.abspath, places):
        if os.path.isdir(place):
            place = os.path.join(place, "images") if _has_images_inside(place) else place
            return tree.relative(place)
        if os.path.isfile(place):
            return tree.relative(place)
    looked = ", ".join(ascii(os.path.abspath(place)) for place in dict.fromkeys(places[:3]))
    raise Unusable(f"{tree.path(file)!a}: {key} is not there; looked for {looked}")


def _has_images_inside(place):
    names = os.listdir(place)
    return "images" in names and not any(is_image(name) for name in names)


def describe(path: str) -> tuple[list[str], dict]:
    """Returns the class names and the other keys of data.yaml, or of a list of names."""
    if not path.endswith((".yaml", ".yml")):
        return class_names(path), {}
    data = read_yaml(path)
    names, count = data.get("names"), data.get("nc")
    if names is None and isinstance(count, int):
        if not 0 < count <= MAX_CLASSES:
            raise Unusable(f"{path!a}: nc is {count}; up to {MAX_CLASSES} classes are read")
        return [f"class_{number}" for number in range(count)], data
    if not isinstance(names, list | dict):
        raise Unusable(f"{path!a}: names is not a list or mapping of class names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise Unusable(f"{path!a} does not number the names 0, 1, 2 ...; renumber them")
        names = [names[number] for number in range(len(names))]
    return check_names(names, path), data


def label_of(image: str, tree: Tree) -> str:
    """Returns an image's label file: in labels/ instead of images/, or beside the image; or ""."""
    head, images, tail = f"/{image}".rpartition("/images/")
    label = (f"{head}/labels/{tail}" if images else f"/{image}")[1:]
    while is_image(label):  # a.jpg, and a.jpg.jpeg
        label = stem(label)
        if tree.has(f"{label}.txt"):
            return f"{label}.txt"
    return ""


def images_of(split: Split) -> list[str]:
    """Returns the paths of images, relative to the tree: of folders, or listed in text files."""
    found = []
    for place in split.source["images"]:
        if not place.endswith(".txt"):
            found += sorted(split.tree.images(place))
            continue
        above = os.path.dirname(place)
        for line in read_lines(split.tree.path(place)):
            at, _ = split.tree.find_image(line.removeprefix("./"), above)
            found.append(at)
    return found


def read(split: Split):
    """Reads a split. An image without a label file is one without objects, as for YOLO itself."""
    source, tree = split.source, split.tree
    named, keys = describe(split.path("description")) if source["description"] else ([], {})
    shape = keys.get("kpt_shape")
    is_pose = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if is_pose:
        _name_keypoints(split, keys, shape[0])
    values = shape[0] * shape[1] if is_pose else 0
    without, above, lines_read, numbers = [], 0, 0, 0
    fits = [0, 0]  # lines that are a box as they should be; and as corners
    for image in images_of(split):
        label = label_of(image, tree)
        record = split.add_image(tree.path(image), stem(os.path.basename(image)))
        if not label:
            without.append(image)
            continue
        path = tree.path(label)
        for at, line in enumerate(read_text(path).splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            where = f"{path}, line {at}"
            if words[0].startswith("#"):
                split.problems.add("line-comment", where)
                continue
            try:
                number, rest = float(words[0]), [float(word) for word in words[1:]]
                if not (0 <= number < MAX_CLASSES and number.is_integer()):
                    raise ValueError(f"there is no class {words[0]}")
                box, polygon, points = _shape(split, rest, values, where)
            except (OverflowError, ValueError) as error:
                split.problems.add("line-invalid", f"{where}: {plain(error)}")
                continue
            number = int(number)
            if named and number >= len(named):
                raise Unusable(
                    f"{path!a} has the class {number}, but only {len(named)} have names, from 0:"
                    f" {', '.join(map(ascii, named[:5]))}"
                )
            lines_read, numbers = lines_read + 1, max(numbers, number + 1)
            above += max(map(abs, rest[:4])) > 1.5
            if box:
                a, b, c, d = box
                fits[0] += min(a - c / 2, b - d / 2) > -0.01 and max(a + c / 2, b + d / 2) < 1.01
                fits[1] += a < c <= 1.01 and b < d <= 1.01
            _add(split, record, named[number] if named else number, box, polygon, points, where)
    if 2 * above > lines_read:
        raise Unusable(
            f"{above} of {lines_read} lines have numbers above 1, for example in {path!a}; they"
            " seem to be pixels, but YOLO's are shares: divide them by the image's width and height"
        )
    if lines_read >= 10 and fits[0] < 0.8 * lines_read and fits[1] >= 0.99 * lines_read:
        text = f"{fits[1]} of {lines_read} lines are, in {path} and other files"
        split.problems.add_all("box-corners", range(fits[1]), lambda _: text)
    split.problems.add_all("labels-missing", without, tree.path)
    split.classes = named or [f"class_{number}" for number in range(numbers)]


def _name_keypoints(split, keys, number):
    names = keys.get("kpt_names")
    names = next(iter(names.values()), None) if isinstance(names, dict) else names
    if not (isinstance(names, list) and len(names) == number):
        names = [f"keypoint_{i}" for i in range(min(number, MAX_CLASSES))]
    split.keypoints = check_names(names, split.path("description"))
    flip = keys.get("flip_idx")
    if isinstance(flip, list) and sorted(map(str, flip)) == sorted(map(str, range(number))):
        split.flips = [(names[i], names[j]) for i, j in enumerate(flip) if i < j]


def _shape(split, numbers, values, where):
    """Returns a box (center and size), a polygon and a list of keypoints, or None for each."""
    if values and len(numbers) == 4 + values:
        return numbers[:4], None, numbers[4:]
    if len(numbers) == 5:
        split.problems.add("line-score", where)
        return numbers[:4], None, None
    if len(numbers) == 4:
        return numbers, None, None
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers are neither a box nor a polygon")
    return None, numbers, None


def _add(split, record, name, box, polygon, points, where):
    """Adds an object; coordinates are rounded to 0.01 pixel: the files have about six digits."""
    width, height = record.get("width", 1), record.get("height", 1)
    if "width" not in record and not split.is_light:
        return  # the missing image is found where it is read, or by the doctor before
    name = name if isinstance(name, str) else f"class_{name}"
    if polygon:
        polygon = [round(v * (height if i % 2 else width), 2) for i, v in enumerate(polygon)]
        return split.add_object(record, name, None, [polygon], where=where)
    x, y, w, h = box
    box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    box = [round(v * size, 2) for v, size in zip(box, (width, height) * 2, strict=True)]
    keypoints = None
    if points:
        step = len(points) // len(split.keypoints)
        keypoints = {}
        for i, keypoint in enumerate(split.keypoints):
            x, y, *visible = points[i * step : (i + 1) * step]
            seen = int(visible[0]) if visible else 2 * bool(x or y)
            # As COCO's, which they are written from: see coco.py.
            point = (round(x * width, 2) + 0.5, round(y * height, 2) + 0.5, seen)
            keypoints[keypoint] = point if seen else (0, 0, 0)
    split.add_object(record, name, box, keypoints=keypoints, where=where)
