"""The manifest of the library, and the command that compares a project's files with it."""

import json
import shutil
import subprocess
import sys

import pytest
from test_architecture import LIBRARY

from d2_starter.files.integrity import hash_files


def check(project):
    command = [sys.executable, "tools/check_library.py"]
    environ = {"PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True)


def test_manifest_is_current():
    manifest = json.loads((LIBRARY / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest == hash_files(LIBRARY), "run: uv run tests/make_manifest.py"


@pytest.mark.parametrize("trainer", ["plain", "lightning"])
def test_a_fresh_project_has_the_library_as_it_came(render, trainer):
    run = check(render(trainer=trainer, data="coco:"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "is as it came with the template" in run.stdout


def test_files_that_were_changed_are_named(render):
    project = render()
    library = project / "d2_starter"
    with (library / "run/ema.py").open("a") as file:
        file.write("# mine\n")
    (library / "run/launch.py").unlink()
    (library / "run/mine.py").touch()
    shutil.copy(library / "run/run.py", library / "run/run.bak")
    windows = (library / "run/setup.py").read_bytes().replace(b"\n", b"\r\n")
    (library / "run/setup.py").write_bytes(windows)
    (library / "run/__pycache__").mkdir(exist_ok=True)
    (library / "run/__pycache__/ema.pyc").touch()
    run = check(project)
    assert run.returncode == 1, run.stderr
    assert [line.split() for line in run.stdout.splitlines()] == [
        ["edited", "d2_starter/run/ema.py"],
        ["missing", "d2_starter/run/launch.py"],
        ["extra", "d2_starter/run/mine.py"],
        ["extra", "d2_starter/run/run.bak"],
    ]


def test_without_a_manifest_there_is_an_error_in_words(render):
    project = render()
    (project / "d2_starter/MANIFEST.json").write_text("{")
    run = check(project)
    assert run.returncode == 1 and "missing or damaged" in run.stderr
    assert "Traceback" not in run.stderr
