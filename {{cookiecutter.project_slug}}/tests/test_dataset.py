"""Your datasets are registered, and what is loaded of them is what detectron2 expects."""

from pathlib import Path

import pytest
from d2_starter.data.catalog import get_metadata
from detectron2.data import DatasetCatalog

from {{ cookiecutter.package_name }}.experiment import load_experiment

CONFIGS = [p for p in Path("configs").glob("*.{{ cookiecutter.__suffix }}") if p.stem != "base"]
EXPERIMENTS = [load_experiment(str(config)) for config in CONFIGS]
NAMES = sorted({name for e in EXPERIMENTS for name in e.train_names + e.test_names})


@pytest.mark.parametrize("name", NAMES)
def test_dataset(name):
    """The datasets of all configs; they are skipped where their files are not."""
    try:
        records = DatasetCatalog.get(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    metadata = get_metadata(name)
    assert metadata.evaluator_type and records
    assert len({record.get("image_id", record["file_name"]) for record in records}) == len(records)
    classes = len(metadata.get("thing_classes", ()))
    for record in records:
        assert Path(record["file_name"]).is_file()
        for annotation in record.get("annotations", ()):
            assert 0 <= annotation["category_id"] < classes


def test_splits_share_no_image(experiment):
    train, val = (
        {record["file_name"] for name in names for record in DatasetCatalog.get(name)}
        for names in (experiment.train_names, experiment.test_names)
    )
    assert not train & val
