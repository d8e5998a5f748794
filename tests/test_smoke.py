"""The first command of the README, and what can be done with its result."""

import re
import sys
from pathlib import Path

import pytest
from projects import SMOKE, Project

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from update import RUN, numbers

pytestmark = pytest.mark.training


@pytest.fixture(scope="session")
def smoke(project):
    """The first command of the README, word for word, and what it prints."""
    project = Project(project.folder, project.environment)
    return project, project.train(*SMOKE)


def test_smoke_run_learns_and_says_where_everything_is(smoke):
    project, output = smoke
    last = project.metrics("output/smoke")[299]
    assert last["bbox/AP50"] > 60
    assert last["segm/AP50"] > 50
    done = output[output.index("Done.") :]
    for what, file in (
        ("checkpoint", "output/smoke/model_final.pth"),
        ("metrics", "output/smoke/metrics.json"),
        ("log", "output/smoke/log.txt"),
        ("pictures", "output/smoke/predictions"),
    ):
        assert re.search(rf"{what} +{file}\n", done)
        assert (project.folder / file).exists()
    assert len(list((project.folder / "output/smoke/predictions").glob("*.jpg"))) == 8
    assert list((project.folder / "output/smoke").glob("events.out.tfevents.*"))
    assert "\r" not in output  # no progress bar where there is no terminal


def test_the_run_that_the_readme_shows(smoke):
    """On another machine, sums have another order: AP differs by some points."""
    recorded, now = numbers(RUN.read_text(encoding="utf-8")), numbers(smoke[1])
    assert recorded.keys() == now.keys()
    for name, value in recorded.items():
        assert now[name] == pytest.approx(value, abs=6 if "AP" in name else 0.15 * value), name


def test_eval_only_gives_the_metrics_of_the_training(smoke):
    project, _ = smoke
    last = project.metrics("output/smoke")[299]
    file = ["MODEL.WEIGHTS", "output/smoke/model_final.pth"]
    for weights in (["--resume"], file, [*file, "TEST.IMS_PER_BATCH", 8]):
        output = project.train(*SMOKE, "--eval-only", *weights)
        assert re.search(rf"val_loss/total_loss +{last['val_loss/total_loss']:.4f}\n", output)
        assert re.search(rf"bbox/AP50 +{last['bbox/AP50']:.2f}\n", output)
        assert re.search(rf"segm/AP50 +{last['segm/AP50']:.2f}\n", output)


def test_predictions_on_photographs(smoke, tmp_path):
    project, _ = smoke
    image = next((project.datasets / "shapes/images_val").glob("*.jpg"))
    project.run("tools/predict.py", "output/smoke", image, "--output", tmp_path / "found")
    assert (tmp_path / "found" / image.name).stat().st_size > 0
    output = project.run("tools/predict.py", "output/smoke", "gone.jpg", status=2)
    assert "there is no file or folder like 'gone.jpg'" in output
