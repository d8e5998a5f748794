"""Code as each ecosystem has it works in the flavours: trainers, zoo configs, Lightning."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import PROJECT, load_lazy, load_yaml
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.events import EventWriter, get_event_storage

from d2_starter.files.run_directory import RunDirectory
from d2_starter.trainers.default_trainer import DefaultTrainer

SHORT = ["SOLVER.MAX_ITER", 4, "SOLVER.STEPS", "(3,)", "SOLVER.IMS_PER_BATCH", 2]
SHORT += ["SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 2, "LOG_PERIOD", 1, "SEED", 1]


def stock_config(output, **more):
    """A config of detectron2's own keys, as a project of one's own has it."""
    cfg = get_cfg()

    def take(node, given):
        for key, value in node.items():
            if isinstance(value, type(cfg)):
                take(value, given[key])
            else:
                node[key] = given[key]

    experiment = load_yaml(overrides=["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *SHORT])
    take(cfg, experiment.config)
    cfg.MODEL.TINY_BACKBONE = experiment.config.MODEL.TINY_BACKBONE
    cfg.OUTPUT_DIR = str(output)
    cfg.merge_from_list([word for pair in more.items() for word in pair])
    cfg.freeze()
    return cfg


class Count(DatasetEvaluator):
    def reset(self):
        self.images = 0

    def process(self, inputs, outputs):
        self.images += len(inputs)

    def evaluate(self):
        return {"count": {"images": self.images}}


class Remember(EventWriter):
    def __init__(self, written):
        self.written = written

    def write(self):
        self.written.append((get_event_storage().iter, dict(get_event_storage().latest())))


class ValueOfMine(HookBase):
    def after_step(self):
        self.trainer.storage.put_scalar("mine", self.trainer.iter)


class TheirTrainer(DefaultTrainer):
    """What people have, with another import line."""

    @classmethod
    def build_train_loader(cls, cfg):
        mapper = DatasetMapper(cfg, is_train=True, augmentations=[T.Resize((64, 64))])
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        mapper = DatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(DatasetCatalog.get(dataset_name)[:5], mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Count()

    @classmethod
    def build_optimizer(cls, cfg, model):
        return torch.optim.AdamW(model.parameters(), 1e-4)

    def build_hooks(self):
        ours = super().build_hooks()
        ours.insert(-1, ValueOfMine())
        return ours

    def build_writers(self):
        self.written = []
        return [*super().build_writers(), Remember(self.written)]


class StockHooks(TheirTrainer):
    def build_hooks(self):
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            hooks.PeriodicCheckpointer(self.checkpointer, 2),
            hooks.EvalHook(2, lambda: self.test(self.cfg, self.model)),
            hooks.BestCheckpointer(2, self.checkpointer, "count/images"),
            hooks.PeriodicWriter(self.build_writers(), period=1),
        ]


def test_a_default_trainer_as_people_have_it(tmp_path):
    trainer = TheirTrainer(stock_config(tmp_path))
    trainer.resume_or_load(resume=False)
    assert trainer.train() == {"count": {"images": 5.0}}
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert not hasattr(trainer.data_loader, "batch_sampler")  # not the library's
    assert [iteration for iteration, _ in trainer.written] == [1, 3]  # when it was evaluated
    assert trainer.written[1][1]["mine"] == (3, 3)  # written in its own iteration
    assert trainer.written[0][1]["count/images"] == (5.0, 1)
    again = TheirTrainer(stock_config(tmp_path, **{"SOLVER.MAX_ITER": 5}))
    again.resume_or_load()
    assert again.start_iter == 4


def test_detectron2s_hooks_in_place_of_the_librarys(tmp_path):
    trainer = StockHooks(stock_config(tmp_path))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert [line["count/images"][0] for _, line in trainer.written if "count/images" in line]
    assert (tmp_path / "model_best.pth").exists()
    assert RunDirectory(tmp_path).last_checkpoint().name == "model_final.pth"  # not the best


def test_reference_world_size(tmp_path):
    cfg = stock_config(tmp_path, **{"SOLVER.REFERENCE_WORLD_SIZE": 2})
    trainer = TheirTrainer(cfg)
    assert (trainer.max_iter, trainer.cfg.SOLVER.IMS_PER_BATCH) == (8, 1)
    assert trainer.experiment.schedule.max_iter == 8


def script(name, load_experiment):
    """The training script as a module."""
    experiment = sys.modules["my_detector.experiment"] = ModuleType("my_detector.experiment")
    experiment.load_experiment = load_experiment
    text = (PROJECT / f"{name}.py").read_text(encoding="utf-8")
    module = ModuleType(name)
    text = text.replace("{{ cookiecutter.package_name }}", "my_detector")
    exec(compile(text, f"{name}.py", "exec"), vars(module))
    return module


ZOO = [
    "COCO-Detection/fcos_R_50_FPN_1x.py",
    "COCO-Detection/retinanet_R_50_FPN_1x.py",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
    "COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py",
    "COCO-InstanceSegmentation/mask_rcnn_regnety_4gf_dds_fpn_1x.py",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py",
    "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py",
    "new_baselines/mask_rcnn_R_101_FPN_100ep_LSJ.py",
    "new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ.py",
    "new_baselines/mask_rcnn_regnety_4gf_dds_FPN_100ep_LSJ.py",
]
ZOO_FOLDER = Path(model_zoo.__file__).parent / "configs"


def zoo_words(config, output):
    kind = "_panoptic" if "panoptic" in config else ""
    augmentation = "dataloader.train.mapper.augmentations"
    words = [f"{augmentation}.0.short_edge_length=[64]"]
    if "rcnn" in config:  # fewer boxes for the heads, which are slow on a CPU
        words.append("model.proposal_generator.post_nms_topk=[32,16]")
    if "LSJ" in config:
        words[0] = f"{augmentation}.0.target_height=64"
        words.append(f"{augmentation}.0.target_width=64")
        words += [f"{augmentation}.1.crop_size=[64,64]", "train.amp.enabled=False"]
    return [
        *words,
        f"dataloader.train.dataset.names=shapes_train{kind}",
        f"dataloader.test.dataset.names=shapes_val{kind}",
        "dataloader.test.mapper.augmentations.0.short_edge_length=64",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.total_batch_size=2",
        "train.max_iter=2",
        "train.eval_period=0",
        "train.init_checkpoint=''",
        "train.device=cpu",
        "train.num_pictures=0",
        "optimizer.lr=0.0001",
        f"train.output_dir={output}",
        "+train.my_loss_weight=0.5",
    ]


@pytest.mark.parametrize("config", ZOO)
def test_a_config_of_the_zoo_trains_and_evaluates(config, tmp_path):
    main = script("lazyconfig_train_net", load_lazy).main
    file, words = str(ZOO_FOLDER / config), zoo_words(config, tmp_path)
    main(Namespace(config_file=file, opts=words, resume=False, eval_only=False, num_gpus=1))
    metrics = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert "bbox/AP" in metrics and "val_loss/total_loss" in metrics
    assert (tmp_path / "model_final.pth").exists()


def test_the_evaluator_of_a_lazy_config_is_used(tmp_path):
    words = [*zoo_words("COCO-Detection", tmp_path), "dataloader.evaluator.dataset_name=nothing"]
    experiment = load_lazy(ZOO_FOLDER / "COCO-Detection/retinanet_R_50_FPN_1x.py", words)
    with pytest.raises(KeyError, match="nothing"):
        experiment.build_evaluator("shapes_val", str(tmp_path))


def test_model_ema_of_a_lazy_config(tmp_path):
    words = [*zoo_words("COCO-Detection", tmp_path), "+train.model_ema={enabled: true, decay: 0.9}"]
    experiment = load_lazy(ZOO_FOLDER / "COCO-Detection/retinanet_R_50_FPN_1x.py", words)
    assert experiment.ema_decay == 0.9


def test_a_lightning_trainer_of_ones_own(load, tmp_path):
    pytest.importorskip("lightning")
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    ours = script("lightning_train_net", load_yaml)
    experiment = load(*SHORT, "OUTPUT_DIR", tmp_path / "run", "MODEL.WEIGHTS", "")

    class Mine(ours.Detector):
        steps = norms = 0

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            self.steps += 1

        def on_before_zero_grad(self, optimizer):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.norms = torch.nn.utils.get_total_norm(gradients).item() if gradients else 0

    best = ModelCheckpoint(tmp_path / "best", monitor="val_loss/total_loss", filename="{step}")
    stop = EarlyStopping("bbox/AP", mode="max", min_delta=1000.0, patience=1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=5,
        limit_train_batches=4,
        accumulate_grad_batches=2,
        gradient_clip_val=0.001,
        precision="bf16-mixed",
        callbacks=[best, stop],
        logger=[CSVLogger(tmp_path / name) for name in ("one", "two")],
        log_every_n_steps=1,
        enable_progress_bar=False,
    )
    module = Mine(experiment)
    trainer.fit(module, ours.Data(experiment))
    assert stop.stopped_epoch == 1 and module.steps == 4  # of two batches each, for two epochs
    assert 0 < module.norms <= 0.00101
    for name in ("one", "two"):
        (csv,) = (tmp_path / name).rglob("metrics.csv")
        header = csv.read_text(encoding="utf-8").splitlines()[0].split(",")
        assert {"total_loss", "loss_mask", "bbox/AP", "val_loss/total_loss"} <= set(header)
    weights = torch.load(best.best_model_path, weights_only=True)["model"]
    assert weights.keys() == module.model.state_dict().keys()
    resumed = Trainer(accelerator="cpu", max_epochs=3, limit_train_batches=4, logger=False)
    other = ours.Detector(experiment)
    resumed.fit(other, ours.Data(experiment), ckpt_path=best.best_model_path)
    assert other.global_step > 2 and os.path.exists(best.best_model_path)
