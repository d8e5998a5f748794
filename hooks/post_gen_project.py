"""Keeps the chosen variants of files, writes into them what is known of the data set.

It may run again over its own result: `cookiecutter -f` and `cruft update` do that. Messages are
ASCII, because some Windows terminals crash on anything else.
"""

import json
import re
from functools import partial
from pathlib import Path

# JSON in a raw string: tojson escapes the quote ', so no answer can end it.
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')  # fmt: skip

PACKAGE, SCRIPT, SUFFIX = (ANSWERS[key] for key in ("package_name", "__script", "__suffix"))

# Experiments, each with what the data set must have to train it; the first that it can is advised.
NEEDS = {
    "panoptic_fpn_R_50": "panoptic",
    "keypoint_rcnn_R_50_FPN": "keypoints",
    "mask_rcnn_R_50_FPN": "masks",
    "pointrend_R_50_FPN": "masks",
    "faster_rcnn_R_50_FPN": "boxes",
    "retinanet_R_50_FPN": "boxes",
    "semantic_R_50_FPN": "semantic",
}
# format: what the project can train on its data sets, and the modules that it needs
FORMATS = {
    "shapes": (["boxes", "masks", "keypoints", "panoptic", "semantic"], []),
    "coco": (["boxes", "masks", "keypoints"], ["coco"]),
    "coco_panoptic": (
        ["boxes", "masks", "panoptic", "semantic"],
        ["coco", "panoptic", "label_maps"],
    ),
    "semantic": (["semantic"], []),
    "voc": (["boxes"], ["voc"]),
    "yolo": (["boxes", "masks"], ["yolo"]),
    "lvis": (["boxes", "masks"], ["coco"]),
    "cityscapes": (["boxes", "masks", "semantic"], ["cityscapes", "label_maps"]),
    "builtin": (["boxes", "masks", "keypoints", "panoptic", "semantic"], []),
    "custom": (["boxes", "masks", "keypoints"], []),
}


def same(*names):
    return {name: name for name in names}


def configs(kind, suffix):
    """The experiments, and what reads and tests them."""
    return same(*(f"configs/{name}.{suffix}" for name in ["base", "smoke", "tiny", *NEEDS])) | {
        f"{PACKAGE}/experiment_{kind}.py": f"{PACKAGE}/experiment.py",
        f"d2_starter/config/{kind}.py": f"d2_starter/config/{kind}.py",
        f"tests/test_config_{kind}.py": "tests/test_config.py",
        f"tests/overrides_{kind}.py": "tests/overrides.py",
    }


YAML, PYTHON = configs("yaml", "yaml"), configs("lazy", "py")
YAML |= {f"{PACKAGE}/config_yaml.py": f"{PACKAGE}/config.py"}
YAML |= same("d2_starter/config/keys.py")
HOOKS = same("d2_starter/trainers/hooks.py", "d2_starter/trainers/train_loop.py")
HOOKS |= same("d2_starter/trainers/__init__.py")
LIGHTNING = same("d2_starter/trainers/lightning.py", "d2_starter/trainers/__init__.py")

# question: {answer: {file in the template: its final name}}
VARIANTS = {
    "trainer": {
        "plain": same("plain_train_net.py") | YAML,
        "train_net": same("train_net.py") | HOOKS | YAML,
        "lazyconfig": same("lazyconfig_train_net.py") | HOOKS | PYTHON,
        "lightning": same("lightning_train_net.py") | LIGHTNING | YAML,
    },
    "cluster": {
        "none": {},
        "slurm": same("slurm/train.sbatch", "slurm/evaluate.sbatch"),
        "kubernetes": same("k8s/volume.yaml", "k8s/train.yaml", "k8s/evaluate.yaml"),
    },
    "license": {
        "Apache-2.0": {"LICENSE_Apache-2.0": "LICENSE"},
        "MIT": {"LICENSE_MIT": "LICENSE"},
        "BSD-3-Clause": {"LICENSE_BSD-3-Clause": "LICENSE"},
        "none": {},
    },
}


# format: what data/dataset.py says of each split, in this order
SPLITS = {
    "coco": ["annotations", "folder"],
    "coco_panoptic": ["annotations", "masks", "folder", "instances"],
    "semantic": ["labels", "folder"],
    "voc": ["list", "annotations", "folder"],
    "yolo": ["folder"],
    "lvis": ["annotations", "folder"],
    "cityscapes": ["folder", "labels"],
}


def choose(variants, chosen):
    """Renames the chosen variants to their final names and removes the others.

    A folder that is empty then is removed, too.
    """
    for variant, final in chosen.items():
        if Path(variant).exists():  # or an earlier run has renamed it
            Path(variant).replace(final)
    for variant, final in [names for files in variants for names in files.items()]:
        for name in {variant, final} - set(chosen.values()):
            Path(name).unlink(missing_ok=True)
        folder = Path(variant).parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def read_found():
    """What pre_gen_project.py has found out about the data set, or else what its format says."""
    file = Path("dataset.json")
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
        can_have = FORMATS[found["format"]][0]
        found["tasks"] = [task for task in found["tasks"] if task in can_have]
        return found
    format = ANSWERS["data"].removesuffix(":")  # shapes, custom, or that of data that come later
    name = format if format == "shapes" else "my_dataset"
    return {"format": format, "name": name, "tasks": FORMATS[format][0]}


def dataset_names(found):
    """What stands for the data sets in config files: the names that data/dataset.py registers."""
    names = {}
    for split in ("train", "val"):
        name = f"{found['name']}_{split}"
        if found["format"] == "builtin":
            name = found["splits"][split]["name"]
        instances = name.removesuffix("_panoptic_separated")
        names[split] = f"{name}_semantic" if found["format"] == "semantic" else instances
        names[f"panoptic_{split}"] = f"{name}_panoptic" if instances == name else name
        names[f"semantic_{split}"] = name if found["format"] == "builtin" else f"{name}_semantic"
    return names


def sizes(found):
    """The sizes, in pixels, to which images are resized: as they are, unless that is too small.

    Objects get up to twice as large, where many (a tenth) are smaller than the smallest anchors.
    """
    size = found.get("size") or {}
    short = size.get("short")
    largest = 800
    if short:
        enlarged = short * min(2, max(1, 32 / (size.get("object") or 32)))
        largest = min(800, max(320, round(enlarged / 32) * 32))
    sizes = range(round(largest / 40) * 32, largest + 1, 32)
    return {
        "min_sizes": ", ".join(map(str, sizes)),
        "min_size": str(largest),
        "max_size": str(round(largest * 1333 / 800)),
    }


def constants(found):
    """The constants of data/dataset.py, of which the template has examples."""
    if found["format"] == "builtin":
        names = dataset_names(found)
        kinds = ["", "panoptic_"] if "panoptic" in found["tasks"] else [""]
        return {"NAMES": [names[kind + split] for kind in kinds for split in ("train", "val")]}
    keys = SPLITS[found["format"]]
    splits = {split: [about[key] for key in keys] for split, about in found["splits"].items()}
    values = {"ELSEWHERE": found["root"]}
    if "val" not in splits:
        splits["val"] = splits["train"]
        values["VAL_SHARE"] = 0.2
    if found["format"] == "yolo":
        splits = {split: folder for split, (folder,) in splits.items()}
    if found["format"] in ("voc", "yolo", "semantic"):
        values["CLASSES"] = found["classes"]
    if found["format"] == "semantic":
        values["IMAGE_EXTENSION"] = found["extension"]
    return {**values, "SPLITS": splits}


def assign(code, name, value):
    """Code with another value for a constant."""
    line = f"{name} = {python(value, room=97 - len(name))}"
    if "\n" not in line and len(line) > 100:
        line += "  # noqa: E501"
    brackets = r".*[\[({]\n( .*\n)*[])}]"
    return re.sub(f"(?m)^{name} = ({brackets}|.*)", lambda _: line, code, count=1)


def python(value, indent=0, room=100):
    """A value as Python code, as ruff formats it: a sequence in one line where that fits."""
    if not isinstance(value, (list, dict)):
        return quote(value) if isinstance(value, str) else str(value)
    inner = indent + 4
    if isinstance(value, dict):
        keys, values, (opening, closing) = [f"{quote(k)}: " for k in value], value.values(), "{}"
    else:
        keys, values, (opening, closing) = [""] * len(value), value, "()"
    items = [k + python(v, inner, 99 - inner - len(k)) for k, v in zip(keys, values, strict=True)]
    line = f"{opening}{', '.join(items)}{',' * (len(items) == 1)}{closing}"
    if isinstance(value, list) and len(line) <= room and "\n" not in line:
        return line
    lines = "".join(f"{' ' * inner}{item},\n" for item in items)
    return f"{opening}\n{lines}{' ' * indent}{closing}"


def quote(text):
    quoted = json.dumps(text, ensure_ascii=not text.isprintable())
    if '"' in text and "'" not in text:  # then ruff takes the other quotes
        quoted = "'" + quoted[1:-1].replace('\\"', '"') + "'"
    return quoted


def edit(file, change):
    path = Path(file)
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def without_lvis(pyproject):
    blocks = [b for b in pyproject.split("\n\n") if 'name = "lvis"' not in b]
    lines = "\n\n".join(blocks).split("\n")
    return "\n".join(line for line in lines if '"lvis' not in line)


def describe(found):
    """What was found, for the user."""
    where = f" in {found['root']!a}" if found["root"] else ""
    yield f"Found the data set {found['name']} ({found['format']}){where}:"
    for split, about in found["splits"].items():
        if about.get("images"):
            yield f"  {split:9}{about['images']} images, {about['objects']} objects"
    if found["classes"]:
        counts = found["counts"]
        shown = [f"{name} {counts.get(name, '')}".strip() for name in found["classes"]]
        more = [f"{len(shown) - 8} more"] if len(shown) > 8 else []
        yield ascii(f"  classes  {', '.join(shown[:8] + more)}")[1:-1]
    yield f"  trains   {', '.join(found['tasks'])}"
    if found["size"]["short"]:
        to = f"resized to {sizes(found)['min_size']}"
        yield f"  pixels   {found['size']['short']} x {found['size']['long']}, {to}"
    for note in found["notes"]:
        yield f"  Note: {note}"


for question, variants in VARIANTS.items():
    choose(variants.values(), variants[ANSWERS[question]])
found = read_found()
tasks = found["tasks"]
usable = [config for config, task in NEEDS.items() if task in tasks]
modules = {module for _, modules in FORMATS.values() for module in modules}
is_tiny = found["format"] != "shapes" and "boxes" in tasks
for name in {"tiny", *NEEDS} - {*usable, *["tiny"] * is_tiny}:
    Path(f"configs/{name}.{SUFFIX}").unlink(missing_ok=True)
for name in modules - set(FORMATS[found["format"]][1]):
    for folder in ("formats", "data"):
        Path(f"d2_starter/{folder}/{name}.py").unlink(missing_ok=True)
choose(
    [same(*(f"{PACKAGE}/data/dataset_{format}.py" for format in FORMATS))],
    {f"{PACKAGE}/data/dataset_{found['format']}.py": f"{PACKAGE}/data/dataset.py"},
)
if "splits" in found:
    for constant, value in constants(found).items():
        edit(f"{PACKAGE}/data/dataset.py", partial(assign, name=constant, value=value))
if not is_tiny:
    edit("README.md", lambda text: re.sub(r"(?m)^.*\btiny\.(yaml|py)\b.*\n", "", text))
if "lvis" not in found["format"] + found["name"]:
    edit("pyproject.toml", without_lvis)

# What stands for these in the files, no answer can contain: pre_gen_project.py would refuse it.
advised = "faster_rcnn_R_50_FPN" if "splits" not in found and "boxes" in tasks else usable[0]
known = {"dataset": found["name"], "config": advised, "masks": str("masks" in tasks)}
known |= dataset_names(found) | sizes(found)
named = [*Path("configs").iterdir(), *Path().glob("slurm/*.sbatch")]
for path in [Path("README.md"), Path(f"{PACKAGE}/data/dataset.py"), *named]:
    if path.is_file() and "\ue000".encode() in path.read_bytes():
        edit(path, partial(re.sub, "\ue000(\\w+)\ue000", lambda token: known[token[1]]))

script = f"uv run {SCRIPT} --config-file configs"
if "splits" in found:
    print("\n".join(describe(found)))
print("Next:")
print(f"  cd {ANSWERS['project_slug']}")
if "splits" in found:
    print(f"  uv run tools/check_dataset.py {known['train']} {known['val']}")
    if is_tiny:
        print(f"  {script}/tiny.{SUFFIX}  # a small model, on a CPU too")
    print(f"  {script}/{advised}.{SUFFIX}")
else:
    print(f"  {script}/smoke.{SUFFIX}")
