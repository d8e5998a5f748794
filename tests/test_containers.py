"""The Dockerfiles and the Makefile that starts them, without building anything."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from test_data import voc_root

TRAINERS = ("plain", "train_net", "lazyconfig", "lightning")
DOCKERFILES = ("Dockerfile", "docker/detectron2.Dockerfile")
# Puts what it is called with into a file, a list a line.
DOCKER = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1:3] == ["image", "inspect"]:
    sys.exit("missing" in os.environ.get("IMAGES", ""))
with open(os.environ["CALLS"], "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
"""


@pytest.fixture(scope="module", params=TRAINERS)
def project(render, request) -> Path:
    return render(trainer=request.param, cluster="kubernetes")


class Make:
    """Runs `make` with a `docker` that only notes how it is called, and a PATH of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls = folder / "calls"
        (folder / "bin").mkdir()
        (folder / "bin/docker").write_text(DOCKER)
        (folder / "bin/docker").chmod(0o755)

    def __call__(self, project: Path, *arguments: str, **environ: str) -> list[list[str]]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        made = subprocess.run(
            ["make", *arguments], cwd=project, text=True, capture_output=True,
            env=os.environ | {"PATH": path, "CALLS": str(self.calls)} | environ,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        calls = [json.loads(line) for line in self.calls.read_text().splitlines()]
        self.calls.unlink()
        return calls


@pytest.fixture
def make(tmp_path):
    if not shutil.which("make"):
        pytest.skip("make is missing: the Makefile was not tested")
    return Make(tmp_path)


def values(call: list[str], option: str) -> list[str]:
    return [after for word, after in pairwise(call) if word == option]


def copied(project: Path) -> set[str]:
    """What the image has of the project, in its top folder."""
    lines = re.findall(r"(?m)^COPY (?!--from)(.+)", (project / "Dockerfile").read_text())
    names = [name for line in lines for name in line.split()[:-1]]
    found = {name: [path.name for path in project.glob(name)] for name in names}
    assert all(files for name, files in found.items() if name != "uv.lock"), found
    return {file for files in found.values() for file in files}


def test_hadolint_finds_nothing(project):
    hadolint = Path(sys.executable).with_name("hadolint")
    for name in DOCKERFILES:
        run = subprocess.run([hadolint, "--no-color", name], cwd=project, capture_output=True)
        assert run.returncode == 0, run.stdout.decode()


def test_image_has_what_runs_and_nothing_else(project):
    (script,) = (path.name for path in project.glob("*train_net.py"))
    assert copied(project) - {"tests"} == {
        script, "configs", "tools", "my_detector", "d2_starter", "datasets.json", "pyproject.toml"
    }  # fmt: skip
    command = re.search(r"(?m)^CMD (.+)", (project / "Dockerfile").read_text())[1]
    python, *arguments = json.loads(command)
    assert python == "python" and arguments[0] == script and arguments[1] == "--config-file"
    assert (project / arguments[2]).is_file()


def test_docker_does_not_look_at_what_git_ignores(project):
    ignored = (project / ".dockerignore").read_text().splitlines()
    for line in (project / ".gitignore").read_text().splitlines():
        if line and not line.startswith("#"):
            name = line.strip("/")
            assert any(fnmatch(name, pattern.removeprefix("**/")) for pattern in ignored), name
    assert ".git" in ignored


def test_python_is_the_same_in_both_stages(project):
    """The environment is copied from one to the other."""
    text = (project / "docker/detectron2.Dockerfile").read_text()
    devel, runtime = (re.search(rf"(?m)^ARG {a}_IMAGE=(.+)", text)[1] for a in ("DEVEL", "RUNTIME"))
    assert re.search(r"ubuntu-?:?(.+)$", devel)[1] == re.search(r"ubuntu:(.+)$", runtime)[1]


def test_make_builds_detectron2_with_the_tag_of_the_dockerfile(project, make):
    (project / "uv.lock").touch()
    dockerfile = (project / "Dockerfile").read_text()
    (tag,) = re.findall(r"(?m)^ARG DETECTRON2_TAG=(.+)", dockerfile)
    (call,) = make(project, "detectron2")
    assert values(call, "--tag") == [f"detectron2:{tag}"]
    assert values(call, "--file") == ["docker/detectron2.Dockerfile"]
    assert call[-1] == "." and not values(call, "--build-arg")
    (call,) = make(project, "detectron2", "CPU=1")
    text = (project / "docker/detectron2.Dockerfile").read_text()
    for argument in values(call, "--build-arg"):
        assert re.search(rf"(?m)^ARG {argument.partition('=')[0]}\b", text), argument


def test_kubernetes_runs_the_image_that_make_builds(project, make):
    (project / "uv.lock").touch()
    (call,) = make(project, "image")
    tag = values(call, "--tag")[0]
    for name in ("train.yaml", "evaluate.yaml"):
        job = next(yaml.safe_load_all((project / "k8s" / name).read_text()))
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"{tag}:COMMIT"
        assert container["workingDir"] == "/app"


def test_make_says_which_commit_an_image_has(render, make):
    project = render()
    (project / "uv.lock").touch()
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(head, cwd=project, capture_output=True, text=True).stdout.strip()
    assert values(*make(project, "image"), "--build-arg") == [f"GIT_COMMIT={commit}"]
    (project / "README.md").write_text("changed")
    assert values(*make(project, "image"), "--build-arg") == [f"GIT_COMMIT={commit}-dirty"]


def test_make_runs_the_projects_commands_in_its_folder(project, make):
    (script,) = (path.name for path in project.glob("*train_net.py"))
    (call,) = make(project, "train", "OPTIONS=--resume SEED 1")
    image = call.index("detectron2:v0")
    python, *command = call[image + 1 :]
    assert (python, command[0], command[1]) == ("python", script, "--config-file")
    assert (project / command[2]).is_file()
    assert command[3:] == ["--resume", "SEED", "1"]
    assert values(call, "--volume") == [f"{project}:/app"]
    assert values(call, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert values(call, "--shm-size") and values(call, "--stop-timeout") == ["300"]
    assert "--tty" not in call  # there is no terminal

    (call,) = make(project, "evaluate", "RUN=output/other")
    assert call[call.index("detectron2:v0") + 1 :] == [
        "python", "tools/evaluate_checkpoints.py", "output/other", "--watch"
    ]  # fmt: skip
    (call,) = make(project, "tensorboard", "PORT=7007")
    assert values(call, "--publish") == ["127.0.0.1:7007:6006"]


def test_make_mounts_data_where_they_are(render, make, tmp_path):
    data = voc_root(tmp_path / "my cells")
    project = render(data=str(data))
    everywhere = tmp_path / "all data"
    everywhere.mkdir()
    (call,) = make(project, "train", DETECTRON2_DATASETS=str(everywhere))
    mounts = [f"{project}:/app", f"{data}:{data}", f"{everywhere}:{everywhere}"]
    assert sorted(values(call, "--volume")) == sorted(mounts)
    assert "DETECTRON2_DATASETS" in values(call, "--env")


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is missing: nothing was copied")
def test_make_copies_the_project_without_data_and_results(render, tmp_path):
    project = render()
    for name in ("output/run/model.pth", "datasets/cells/a.jpg", ".venv/bin/python"):
        (project / name).parent.mkdir(parents=True)
        (project / name).touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/kept").touch()
    make = ["make", "sync", f"TO={tmp_path / 'there'}"]
    subprocess.run(make, cwd=project, check=True, capture_output=True)
    there = {path.name for path in (tmp_path / "there").iterdir()}
    here = {path.name for path in project.iterdir()}
    assert there == here - {"output", "datasets", ".venv"} | {"kept"}

    nowhere = subprocess.run(make[:2], cwd=project, capture_output=True, text=True)
    assert nowhere.returncode and "make sync TO=machine:folder" in nowhere.stdout
