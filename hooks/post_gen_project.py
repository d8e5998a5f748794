"""Keeps the chosen variants of files under their final names, and says what to run next.

It may run again over its own result: `cookiecutter -f` and `cruft update` do that.
"""

import json
from pathlib import Path

# JSON in a raw string: tojson escapes the quote ', so no answer can end it.
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')  # fmt: skip

PACKAGE = ANSWERS["package_name"]
DATASET = f"{PACKAGE}/data/dataset"

# Experiments, in YAML or Python; and those that a format has no ground truth for: VOC has boxes.
ANY = ["base", "smoke", "faster_rcnn_R_50_FPN", "retinanet_R_50_FPN"]
MASKS = ["mask_rcnn_R_50_FPN", "pointrend_R_50_FPN", "keypoint_rcnn_R_50_FPN"]
STUFF = ["panoptic_fpn_R_50", "semantic_R_50_FPN"]
UNUSABLE = {"shapes": [], "coco": STUFF, "voc": MASKS + STUFF, "custom": STUFF}


def same(*names):
    return {name: name for name in names}


def configs(kind, suffix):
    """The experiments, and what reads and tests them."""
    return same(*(f"configs/{name}.{suffix}" for name in ANY + MASKS + STUFF)) | {
        f"{PACKAGE}/experiment_{kind}.py": f"{PACKAGE}/experiment.py",
        f"tests/test_config_{kind}.py": "tests/test_config.py",
        f"tests/overrides_{kind}.py": "tests/overrides.py",
    }


YAML, PYTHON = configs("yaml", "yaml"), configs("lazy", "py")
HOOKS = same(f"{PACKAGE}/engine/hooks.py", f"{PACKAGE}/engine/train_loop.py")
LIGHTNING = same(f"{PACKAGE}/engine/lightning.py")

# question: {answer: {file in the template: its final name}}
VARIANTS = {
    "trainer": {
        "plain": same("plain_train_net.py") | YAML,
        "train_net": same("train_net.py") | HOOKS | YAML,
        "lazyconfig": same("lazyconfig_train_net.py") | HOOKS | PYTHON,
        "lightning": same("lightning_train_net.py") | LIGHTNING | YAML,
    },
    "dataset_format": {
        "shapes": {f"{DATASET}_shapes.py": f"{DATASET}.py"},
        "coco": {f"{DATASET}_coco.py": f"{DATASET}.py"},
        "voc": {f"{DATASET}_voc.py": f"{DATASET}.py"},
        "custom": {f"{DATASET}_custom.py": f"{DATASET}.py"},
    },
    "license": {
        "Apache-2.0": {"LICENSE_Apache-2.0": "LICENSE"},
        "MIT": {"LICENSE_MIT": "LICENSE"},
        "BSD-3-Clause": {"LICENSE_BSD-3-Clause": "LICENSE"},
        "none": {},
    },
}

for question, variants in VARIANTS.items():
    chosen = variants[ANSWERS[question]]
    for variant, final in chosen.items():
        if Path(variant).exists():  # or an earlier run has renamed it
            Path(variant).replace(final)
    for variant, final in [names for files in variants.values() for names in files.items()]:
        for name in {variant, final} - set(chosen.values()):
            Path(name).unlink(missing_ok=True)
for name in UNUSABLE[ANSWERS["dataset_format"]]:
    for suffix in ("yaml", "py"):
        Path(f"configs/{name}.{suffix}").unlink(missing_ok=True)

print("Next:")
print(f"  cd {ANSWERS['project_slug']}")
print(f"  uv run {ANSWERS['__script']} --config-file configs/smoke.{ANSWERS['__suffix']}")
