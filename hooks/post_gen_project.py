"""Keeps the chosen variants of files under their final names, and says what to run next.

It may run again over its own result: `cookiecutter -f` and `cruft update` do that.
"""

import json
from pathlib import Path

# JSON in a raw string: tojson escapes the quote ', so no answer can end it.
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')  # fmt: skip

DATASET = f"{ANSWERS['package_name']}/data/dataset"

# question: {answer: {file in the template: its final name}}
VARIANTS = {
    "trainer": {
        "plain": {"plain_train_net.py": "plain_train_net.py"},
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

# Experiments that a format has no ground truth for: shapes has all, VOC has boxes only.
NOT_STUFF = ["configs/panoptic_fpn_R_50.yaml", "configs/semantic_R_50_FPN.yaml"]
NOT_MASKS = [
    "configs/keypoint_rcnn_R_50_FPN.yaml",
    "configs/mask_rcnn_R_50_FPN.yaml",
    "configs/pointrend_R_50_FPN.yaml",
]
UNUSABLE = {"shapes": [], "coco": NOT_STUFF, "voc": NOT_STUFF + NOT_MASKS, "custom": NOT_STUFF}

for question, variants in VARIANTS.items():
    chosen = variants[ANSWERS[question]]
    for variant, final in chosen.items():
        if Path(variant).exists():  # or an earlier run has renamed it
            Path(variant).replace(final)
    for variant, final in [names for files in variants.values() for names in files.items()]:
        for name in {variant, final} - set(chosen.values()):
            Path(name).unlink(missing_ok=True)
for config in UNUSABLE[ANSWERS["dataset_format"]]:
    Path(config).unlink(missing_ok=True)

(trainer,) = VARIANTS["trainer"][ANSWERS["trainer"]].values()
print("Next:")
print(f"  cd {ANSWERS['project_slug']}")
print(f"  uv run {trainer} --config-file configs/smoke.yaml")
