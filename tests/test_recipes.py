"""The recipes of a project's README work as they stand there."""

import json
import re
from pathlib import Path
from textwrap import indent

import pytest
from projects import TRAINERS

SHORT = ["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "LOG_PERIOD", 1, "OUTPUT_DIR", "mine"]
SHORT += ["DATALOADER.NUM_WORKERS", 0, "TEST.EVAL_PERIOD", 0, "TEST.NUM_PICTURES", 0]
SHORT += ["TEST.REPORT", False]
IMPORTS = {
    "plain": "",
    "lightning": "from lightning.pytorch import Callback\n",
    "train_net": "from detectron2.engine import HookBase\n",
    "lazyconfig": "from detectron2.engine import HookBase\n",
}


def follow(project: Path, trainer: str):
    """Does what the recipes say, and fails where their words do not fit."""
    readme = (project / "README.md").read_text(encoding="utf-8")
    recipes = re.search(r"## Recipes\n(.*?)\n## ", readme, re.DOTALL)[1]
    blocks = re.findall(r"```\w+\n(.*?)```", recipes, re.DOTALL)

    def change(file, old, new, said=""):
        text = (project / file).read_text(encoding="utf-8")
        assert text.count(old) == 1 and said in recipes, (file, old, said)
        (project / file).write_text(text.replace(old, new), encoding="utf-8")

    for block in blocks:
        if file := re.match(r"# (\S+\.\w+)\n", block):
            assert not (project / file[1]).exists()
            (project / file[1]).write_text(block, encoding="utf-8")
    modelling = project / "my_detector/modelling"
    text = (modelling / "tiny_backbone.py").read_text(encoding="utf-8")
    text = text.replace("tiny_fpn", "my").replace("TinyBackbone", "MyBackbone")
    text = text.replace("nn.Sequential(", "nn.Sequential(nn.Dropout(0.01), ")
    (modelling / "my_backbone.py").write_text(text, encoding="utf-8")
    if trainer != "lazyconfig":
        said = "from . import my_backbone, tiny_backbone"
        change(
            "my_detector/modelling/__init__.py",
            said.replace("my_backbone, ", ""),
            f"{said}, my_heads",
            said,
        )
        said = "cfg.MODEL.MY_KEY = 0.0"
        change("my_detector/config.py", "    # Channels", f"    {said}\n    # Channels", said)
    script = f"{trainer}_train_net.py".replace("train_net_train", "train")
    if trainer == "plain":
        (said,) = re.findall(r"`(storage\.put_scalar\(.*)`", recipes)
        change(
            script, "            ema.update()\n", f"            ema.update()\n            {said}\n"
        )
    else:
        old = re.search(r"(?m)^(class \w+|def do_train)\(", (project / script).read_text())[0]
        (block,) = (block for block in blocks if block.startswith("class My"))
        change(script, old, f"{IMPORTS[trainer]}{block}\n\n{old}")
    if trainer == "train_net":
        said = "def build_hooks(self): return [MyHook(), *super().build_hooks()]"
        change(script, "    mapper = Mapper\n", f"    mapper = Mapper\n    {said}\n", said)
    if trainer == "lazyconfig":
        said = "LRScheduler(scheduler=scheduler), MyHook(), *own_hooks"
        change(script, said.replace("MyHook(), ", ""), said, said)
    if trainer == "lightning":
        said = "callbacks=[MyCallback(), KeepRun("
        change(script, said.replace("MyCallback(), ", ""), said, said)
    file, said = "my_detector/experiment.py", "evaluators=[lambda name: MyEvaluator()]"
    change(file, "from . import", "from .my_evaluator import MyEvaluator\nfrom . import")
    text = (project / file).read_text()
    last = text.rstrip().rpartition("\n")[2]
    change(file, last, f"{last[:-1]}, {said})", said)


@pytest.mark.training
@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_recipes_work(make_project, trainer):
    project = make_project(trainer=trainer)
    follow(project.folder, trainer)
    project.train("--config-file", "configs/mine.yaml", *SHORT)
    check(project.folder)


def check(folder: Path):
    config = (folder / "mine/config.yaml").read_text(encoding="utf-8")
    assert re.search(r"(?im)^ *my_key: 0.5$", config)
    assert "RandomRotation" in config and re.search(
        "NAME: build_my_backbone|my_backbone.MyBackbone", config
    )
    lines = (folder / "mine/metrics.json").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    assert last["largest"] > 0 and last["mine/objects"] >= 0 and last["bbox/AP"] >= 0


OF_ONES_OWN = """
from detectron2.structures import BitMasks, Instances


class Critic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(64, 1, 1)

    def forward(self, features, data):
        return self.layer(features).square().mean()


def to_ground_truth(found, threshold):
    return Instances(
        found.image_size,
        gt_boxes=found.pred_boxes,
        gt_classes=found.pred_classes,
        gt_masks=BitMasks(found.pred_masks),
    )


def train("""


def with_the_pages_code(folder: Path, kind: str):
    """Writes own_train_net.py: the script, with what docs/trainers.md has for a loop of one's own."""
    page = (
        (folder / "docs/trainers.md").read_text(encoding="utf-8").partition("loop of your own")[2]
    )
    *critic, teacher = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    script = (folder / "plain_train_net.py").read_text(encoding="utf-8")
    script = script.replace("def train(", OF_ONES_OWN.lstrip(), 1)
    if kind == "critic":
        start = "    start_iter = checkpointer.start("
        script = script.replace(start, indent(critic[0], " " * 4) + start)
        step = re.search(r"(?m)^ +seed_step\(.*\n((?:.*\n)*?) +ema\.update\(\)\n", script)
        script = script.replace(step[1], indent(critic[1], " " * 12))
    else:
        line = "                        loss_dict = model(micro_batch)\n"
        data = "weak, unlabeled = micro_batch, [dict(image) for image in micro_batch]\n"
        script = script.replace(line, line + indent(data + teacher, " " * 24))
    (folder / "own_train_net.py").write_text(script, encoding="utf-8")


@pytest.mark.training
@pytest.mark.parametrize("kind", ["critic", "teacher"])
def test_a_loop_of_ones_own_as_the_page_has_it(make_project, kind):
    project = make_project(trainer="plain")
    with_the_pages_code(project.folder, kind)
    more = ["SOLVER.EMA_DECAY", 0.9] if kind == "teacher" else []
    project.train("--config-file", "configs/smoke.yaml", *SHORT, *more, script="own_train_net.py")
    first, second = project.metrics("mine").values()
    if kind == "teacher":
        assert second["loss_cls_unlabeled"] > 0
    else:
        assert first["loss_fooled"] < 0 < second["loss_critic"]
        assert "critic_optimizer" in project.execute(
            "import torch; print(*torch.load('mine/model_final.pth', weights_only=True))"
        )
