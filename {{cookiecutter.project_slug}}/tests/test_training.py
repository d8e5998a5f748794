"""The commands of the README, for a few iterations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from overrides import short_run


@pytest.fixture
def run(small_shapes):
    def run(script, *arguments):
        command = [sys.executable, script, *map(str, arguments)]
        environ = os.environ | {"DETECTRON2_DATASETS": str(small_shapes)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_train_resume_evaluate(run, tmp_path):
    (script,) = Path().glob("*train_net.py")
    output = tmp_path / "run"
    options = ["--config-file", "configs/smoke.{{ cookiecutter.__suffix }}"]

    run(script, *options, *short_run(output, max_iter=4))
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert all(line["total_loss"] > 0 for line in lines)
    assert {"bbox/AP", "segm/AP"} <= lines[-1].keys()
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert len(list((output / "predictions").glob("*.jpg"))) == 8

    run(script, *options, "--resume", *short_run(output, max_iter=6))
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3, 4, 5]

    printed = run(script, *options, "--eval-only", "--resume", *short_run(output, max_iter=6))
    assert f"val_loss/total_loss  {lines[-1]['val_loss/total_loss']:.4f}" in printed
