"""Builds the images without CUDA, and trains in them. Minutes, and gigabytes of disk.

    CONTAINER_BASE=localhost/bookworm uv run pytest tests/test_container_builds.py -n 0 -s

`CONTAINER_BASE` is an image of Debian or Ubuntu, for both stages. Without a registry, make one of
`debootstrap --variant=minbase bookworm FOLDER`: `buildah from scratch`, `buildah copy`, `buildah
commit --format docker`. What the machine needs besides goes into

    CONTAINER_BUILD   default "docker build"; e.g. "buildah build --isolation chroot --format docker
                      --layers --pull-never", with `--volume` for certificates or a mirror
    CONTAINER_RUN     default "docker"; e.g. "podman --runtime runc --cgroup-manager cgroupfs"
    CONTAINER_FLAGS   of `run`; e.g. "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"

Sizes and times are printed.
"""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

BASE = os.environ.get("CONTAINER_BASE")
BUILD = os.environ.get("CONTAINER_BUILD", "docker build")
DOCKER = os.environ.get("CONTAINER_RUN", "docker")
FLAGS = os.environ.get("CONTAINER_FLAGS", "")
ARGUMENTS = f"DEVEL_IMAGE={BASE} RUNTIME_IMAGE={BASE} FORCE_CUDA=0".split()
IMAGE, DETECTRON2 = "my-detector", "detectron2:test"
SHORT = "SOLVER.STEPS (5,) TEST.EVAL_PERIOD 0 TEST.NUM_PICTURES 0 LOG_PERIOD 1".split()
TRAIN = "python plain_train_net.py --config-file configs/smoke.yaml".split()
STRANGER = "4242:4242"  # no user of the image

pytestmark = pytest.mark.skipif(not BASE, reason="CONTAINER_BASE names no image: none was built")


def docker(*arguments, status=0) -> str:
    run = subprocess.run(
        [*shlex.split(DOCKER), *map(str, arguments)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert run.returncode == status, run.stdout[-8000:]
    return run.stdout


def run(*arguments, status=0) -> str:
    return docker("run", "--rm", *shlex.split(FLAGS), *arguments, status=status)


class Containers:
    def __init__(self, project: Path):
        self.project = project

    def make(self, target: str, *arguments: str, build="", status=0) -> str:
        started = time.monotonic()
        variables = [f"BUILD={BUILD} {build}", f"DOCKER={DOCKER}", f"FLAGS={FLAGS}"]
        made = subprocess.run(
            ["make", target, *variables, *arguments], cwd=self.project, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        print(f"\nmake {target}: {time.monotonic() - started:.1f} s")
        assert (made.returncode == 0) == (status == 0), made.stdout[-8000:]
        return made.stdout

    def change(self, name: str, old: str, new: str):
        file = self.project / name
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")


def image_id(image: str) -> str:
    return docker("inspect", "--format={{.Id}}", image)


def size(image: str) -> float:
    """Of all its layers, in MB."""
    units = {"B": 1e-6, "kB": 1e-3, "MB": 1, "GB": 1e3}
    sizes = docker("history", "--format={{.Size}}", image).splitlines()
    split = [re.fullmatch(r"([0-9.]+) ?(\w+)", size).groups() for size in sizes]
    return sum(float(number) * units[unit] for number, unit in split)


@pytest.fixture(scope="module")
def containers(render):
    """A project, its detectron2 image and its own image, beside things that belong in neither."""
    containers = Containers(render(cluster="kubernetes"))
    # As README.md says for another base image; and v0 may be in use.
    containers.change("Dockerfile", "DETECTRON2_TAG=v0", "DETECTRON2_TAG=test")
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=containers.project, check=True)
    for name in ("output/run/model.pth", "datasets/cells/a.jpg", "cells/a.jpg"):
        file = containers.project / name
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(1000))
    containers.make("detectron2", build=" ".join(f"--build-arg {a}" for a in ARGUMENTS))
    containers.make("image")
    print(f"detectron2: {size(DETECTRON2):.0f} MB, the project {size(IMAGE):.0f} MB")
    return containers


@pytest.fixture
def output(tmp_path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def read_only(output: Path, *options: str, user: str | None = STRANGER) -> list[str]:
    """What comes before the command that `docker run` runs."""
    user = [f"--user={user}"] if user else []
    volume = f"--volume={output}:/app/output"
    return [*user, "--read-only", "--tmpfs=/tmp", volume, *options, IMAGE]


def test_image_has_the_versions_of_the_lock_file(containers):
    export = "uv export --quiet --locked --no-dev --no-emit-project --no-hashes --no-annotate"
    locked = subprocess.run(
        [*export.split(), "--no-header"], cwd=containers.project, capture_output=True, text=True
    ).stdout
    pins = {line.partition(" ;")[0] for line in locked.splitlines()}
    lines = run(IMAGE, "uv", "pip", "freeze").splitlines()
    installed = {line for line in lines if "==" in line or "@" in line}
    names = {pin.partition("==")[0] for pin in installed}
    assert {"torch", "torchvision", "numpy", "opencv-python-headless"} <= names
    assert any(pin.startswith("detectron2 @ git+") for pin in installed)
    assert installed <= pins


def test_image_has_code_alone(containers):
    found = set(run(IMAGE, "sh", "-c", "ls -A /app /tmp").split())
    assert {"my_detector", "d2_starter", "configs", "tools", "plain_train_net.py"} <= found
    assert not found & {"output", "datasets", "cells", ".git", ".venv", "tests", ".cache"}


def test_a_changed_line_makes_a_small_layer(containers):
    before = image_id(IMAGE)
    containers.change("my_detector/config.py", "import CfgNode", "import CfgNode  # changed")
    containers.make("image")
    assert image_id(IMAGE) != before
    assert "# changed" in run(IMAGE, "cat", "my_detector/config.py")
    print(f"all layers of the project: {size(IMAGE) - size(DETECTRON2):.2f} MB")
    assert size(IMAGE) - size(DETECTRON2) < 5


def test_image_is_not_run_as_root_unless_asked(containers):
    assert run(IMAGE, "id", "-u").strip() == "1000"


@pytest.mark.parametrize("user", [None, STRANGER])
def test_training_with_a_read_only_root(containers, output, user):
    command = [*TRAIN, *SHORT, "SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 3]
    run(*read_only(output, user=user), *command)
    folder = output / "smoke"
    assert json.loads((folder / "ended.json").read_text()) == {"status": "finished"}
    assert (folder / "model_final.pth").stat().st_uid == (4242 if user else 1000)
    last = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    assert last["iteration"] == 5 and "segm/AP" in last
    commit = "git describe --always --abbrev=40 --dirty".split()
    commit = subprocess.run(commit, cwd=containers.project, capture_output=True, text=True).stdout
    assert (folder / "environment.txt").read_text().startswith(f"git commit: {commit}")


def test_sigterm_leaves_a_checkpoint_to_resume(containers, output):
    endless = [*TRAIN, *SHORT, "SOLVER.MAX_ITER", 100000]
    name = "d2-starter-test"
    docker("run", "--detach", f"--name={name}", *shlex.split(FLAGS), *read_only(output), *endless)
    try:
        log = output / "smoke/metrics.json"
        while not log.exists() or log.read_text().count("\n") < 3:
            assert docker("inspect", "--format={{.State.Running}}", name).strip() == "true"
            time.sleep(0.2)
        docker("stop", "-t", 120, name)
        assert docker("wait", name).strip() == "143", docker("logs", name)[-4000:]
    finally:
        docker("rm", "--force", name)
    assert json.loads((log.parent / "ended.json").read_text())["status"] == "interrupted"
    done = log.read_text().count("\n")
    run(*read_only(output), *TRAIN, "--resume", *SHORT, "SOLVER.MAX_ITER", done + 2)
    iterations = [json.loads(line)["iteration"] for line in log.read_text().splitlines()]
    assert iterations == list(range(done + 2))


def test_mounted_code_needs_no_build(containers):
    containers.change("d2_starter/run/finish.py", "Done.", "Mounted.")
    run = [*SHORT, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", "output/mounted"]
    assert "Mounted." in containers.make("train", f"OPTIONS={shlex.join(run)}")
    log = containers.project / "output/mounted/metrics.json"
    assert log.read_text().count("\n") == 2
    assert log.stat().st_uid == os.getuid()
    assert "are evaluated" in containers.make("evaluate", "RUN=output/mounted")


def test_little_shared_memory_is_announced(containers, output):
    command = [*TRAIN, *SHORT, "SOLVER.MAX_ITER", 1]
    small = run(*read_only(output, "--shm-size=64m"), *command)
    assert "/dev/shm has" in small and "--shm-size" in small
    assert "/dev/shm has" not in run(*read_only(output, "--shm-size=2g"), *command)


def test_another_dependency_is_added_on_top(containers):
    before = image_id(DETECTRON2)
    containers.change("pyproject.toml", "dependencies = [", 'dependencies = [\n  "humanize",')
    subprocess.run(["uv", "lock"], cwd=containers.project, check=True, capture_output=True)
    containers.make("image")
    assert (
        run(IMAGE, "python", "-c", "import humanize, detectron2; print('both')").strip() == "both"
    )
    assert image_id(DETECTRON2) == before
    assert size(IMAGE) - size(DETECTRON2) < 10


def test_tests_pass_in_the_image(containers):
    assert " passed" in containers.make("test-image")


def test_another_pytorch_is_refused(containers):
    before = image_id(IMAGE)
    containers.change("pyproject.toml", '"torch>=2.6"', '"torch>=2.6,<2.14"')
    printed = containers.make("image", status=2)  # the lock file is not changed yet
    assert "needs to be updated" in printed
    subprocess.run(["uv", "lock"], cwd=containers.project, check=True, capture_output=True)
    printed = containers.make("image", status=2)
    assert "torch==2.1" in printed and "Build it again" in printed
    assert image_id(IMAGE) == before
