"""What users saw of containers that was not said in words, without building anything."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TRAINERS = ("plain", "lazyconfig")
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is missing")


@pytest.fixture(scope="module", params=TRAINERS)
def project(render, request) -> Path:
    project = render(trainer=request.param)
    (project / "uv.lock").touch()
    return project


def make(project, tmp_path, *arguments, docker="exit 0", path=None):
    """Runs `make` with a `docker` that does what is given, and says its arguments."""
    (tmp_path / "docker").write_text(f'#!/bin/sh\necho "$DOCKER_BUILDKIT: $*"\n{docker}\n')
    (tmp_path / "docker").chmod(0o755)
    path = path or os.environ["PATH"]
    return subprocess.run(
        [shutil.which("make"), *arguments], cwd=project, text=True, capture_output=True,
        env=os.environ | {"PATH": f"{tmp_path}:{path}"},
    )  # fmt: skip


def test_no_image(project, tmp_path):
    made = make(project, tmp_path, "train", docker='[ "$1" != image ]')
    assert (
        made.returncode and "There is no image detectron2:v0 here: make detectron2" in made.stdout
    )
    assert " run " not in made.stdout


def test_no_stranger_is_pulled(project, tmp_path):
    assert "1: run --rm --pull never " in make(project, tmp_path, "train").stdout


def test_names(project, tmp_path):
    made = make(project, tmp_path, "train", "NAME=a")
    assert "docker stop a ends it" in made.stdout and "--name a " in made.stdout
    assert re.search(r"--name my-detector-train-\d{6} ", make(project, tmp_path, "train").stdout)


def test_no_uv(project, tmp_path):
    (project / "uv.lock").unlink()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "sed", "id", "date", "git", "test"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    made = make(project, tmp_path, "image", path=str(tools))
    (project / "uv.lock").touch()
    assert made.returncode and "https://docs.astral.sh/uv" in made.stdout
    assert "build" not in made.stdout


@pytest.mark.parametrize(
    "user, is_fine", [("ada", False), ("0", False), ("", False), ("1000", True)]
)
def test_user_id_is_checked_first(project, user, is_fine):
    text = (project / "docker/detectron2.Dockerfile").read_text()
    first = text[text.index("\nFROM ") :].split("\nFROM ")[1]
    script = re.search(r"RUN (case .*?esac)", first, re.DOTALL)[1].replace("\\\n", " ")
    checked = subprocess.run(["sh", "-c", script], env={"USER_ID": user}, capture_output=True)
    assert (checked.returncode == 0) == is_fine


def test_commands_in_the_docs(project):
    for name in ("Dockerfile", "docs/containers.md"):
        text = (project / name).read_text()
        assert "mkdir -p output" in text and '-v "$PWD/output:/app/output"' in text
        assert '--user "$(id -u):$(id -g)"' in text and "-v ./" not in text
    assert ".env" in (project / ".dockerignore").read_text().splitlines()
