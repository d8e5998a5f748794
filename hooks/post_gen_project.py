"""Keeps the chosen variants of files, and writes which datasets there are.

It may run again over its own result: `cookiecutter -f` and `cruft update` do that. Messages are
ASCII, because some Windows terminals crash on anything else.
"""

import json
import sys
from pathlib import Path

# JSON in a raw string: tojson escapes the quote ', so no answer can end it.
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')  # fmt: skip
PACKAGE = ANSWERS["package_name"]
CONFIGS = """base smoke tiny faster_rcnn_R_50_FPN keypoint_rcnn_R_50_FPN mask_rcnn_R_50_FPN
    panoptic_fpn_R_50 pointrend_R_50_FPN retinanet_R_50_FPN semantic_R_50_FPN
    cascade_mask_rcnn_R_50_FPN deeplab_v3plus_R_103 mask_rcnn_R_50_FPN_lsj
    mask_rcnn_convnext_tiny_FPN""".split()


def same(*names):
    return {name: name for name in names}


def configs(kind, suffix):
    """The experiments, and what reads and tests them."""
    generated = [f"dataset/{part}" for part in ("instances", "panoptic", "semantic")]
    names = CONFIGS + generated * (kind == "yaml")
    return same(*(f"configs/{name}.{suffix}" for name in names)) | {
        f"{PACKAGE}/experiment_{kind}.py": f"{PACKAGE}/experiment.py",
        f"d2_starter/config/{kind}.py": f"d2_starter/config/{kind}.py",
        f"tests/test_config_{kind}.py": "tests/test_config.py",
        f"tests/overrides_{kind}.py": "tests/overrides.py",
    }


YAML, PYTHON = configs("yaml", "yaml"), configs("lazy", "py")
YAML |= {f"{PACKAGE}/config_yaml.py": f"{PACKAGE}/config.py"} | same(
    "d2_starter/config/keys.py", "d2_starter/config/model_keys.py"
)
PYTHON |= same("configs/fcos_R_50_FPN.py", "configs/mask_rcnn_vitdet_b.py")
HOOKS = same(*(f"d2_starter/trainers/{name}.py" for name in ("__init__", "hooks", "train_loop")))
LIGHTNING = same("d2_starter/trainers/__init__.py", "d2_starter/trainers/lightning.py")

# question: {answer: {file in the template: its final name}}
VARIANTS = {
    "trainer": {
        "plain": same("plain_train_net.py") | YAML,
        "train_net": same("train_net.py", "d2_starter/trainers/default_trainer.py") | HOOKS | YAML,
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
    "data": {
        "custom": {f"{PACKAGE}/data/dataset_custom.py": f"{PACKAGE}/data/dataset.py"},
        "other": same(f"{PACKAGE}/data/dataset.py"),
    },
}


def choose(variants, chosen):
    """Renames the chosen variants to their final names and removes the others.

    A folder that is empty then is removed, too.
    """
    for variant, final in chosen.items():
        if Path(variant).exists():  # or an earlier run has renamed it
            Path(variant).replace(final)
    for variant, final in [names for files in variants.values() for names in files.items()]:
        for name in {variant, final} - set(chosen.values()):
            Path(name).unlink(missing_ok=True)
        folder = Path(variant).parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


for question, variants in VARIANTS.items():
    answer = ANSWERS[question]
    choose(variants, variants.get(answer, variants.get("other")))
manifest = Path("d2_starter/MANIFEST.json")  # of the files that are left
hashes = json.loads(manifest.read_text(encoding="utf-8"))
hashes = {name: hash for name, hash in hashes.items() if Path("d2_starter", name).exists()}
manifest.write_text(f"{json.dumps(hashes, indent=1)}\n", encoding="utf-8", newline="\n")

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path("d2_starter").resolve()))
from formats.project import Project  # noqa: E402  the library's readers, of the standard library

data = ANSWERS["data"]
if data == "custom" or data == "shapes" or data.endswith(":"):
    project = Project.without_data(".", "custom" if data == "custom" else "shapes")
else:
    project = Project.read()  # which pre_gen_project.py has written
project.write()
print("\n".join(["Next:", f"  cd {ANSWERS['project_slug']}"]))
if data.endswith(":"):
    print(f"  uv run tools/set_dataset.py {data}PATH  # when your data are there; until then:")
print("\n".join(f"  {command}" for command in project.commands(ANSWERS["__script"])))
