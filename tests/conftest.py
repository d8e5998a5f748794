"""Renders the template as a user would, away from the user's own cookiecutter settings."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from projects import FEWER_SHAPES, ForkServer, Project

sys.dont_write_bytecode = True  # in the template, whose library tests import
TEMPLATE = Path(__file__).parents[1]
ANSWERS = {
    "project_name": "My Detector",
    "project_slug": "my-detector",
    "package_name": "my_detector",
    "author": "Ada",
    "trainer": "plain",
    "data": "shapes",
    "cluster": "none",
    "license": "MIT",
    "_repo_dir": str(TEMPLATE),
    "__script": "plain_train_net.py",  # derived from the others
    "__suffix": "yaml",
}

compile_template, compiled = jinja2.Environment.compile, {}


def compile_once(self, *source):
    """Half of the time of rendering is compiling, of the same files each time."""
    if source not in compiled:
        compiled[source] = compile_template(self, *source)
    return compiled[source]


jinja2.Environment.compile = compile_once


@pytest.fixture(scope="session")
def render(tmp_path_factory) -> Callable[..., Path]:
    """`render(trainer="plain", ...)` makes a project in a new folder and returns its path.

    `typed=True` takes all eight answers as typed at the prompts: cookiecutter evaluates template
    braces in answers of the command line, but not in these. With an `output_dir`, a project that
    is there already is overwritten.
    """
    settings = tmp_path_factory.mktemp("cookiecutter")

    def render(output_dir: Path | None = None, typed: bool = False, **answers: str) -> Path:
        how = {"no_input": True, "extra_context": answers}
        if typed:
            replay = settings / "typed.json"
            replay.write_text(json.dumps({"cookiecutter": answers}), encoding="utf-8")
            how = {"replay": str(replay)}
        project = cookiecutter(
            str(TEMPLATE),
            output_dir=str(output_dir or tmp_path_factory.mktemp("rendered")),
            overwrite_if_exists=output_dir is not None,
            default_config={"replay_dir": str(settings), "cookiecutters_dir": str(settings)},
            **how,
        )
        return Path(project)

    return render


@pytest.fixture
def refusal(render, tmp_path, capfd) -> Callable[..., str]:
    """`refusal(author="")` fails to make a project, leaves nothing, and returns the messages."""

    def refusal(**answers) -> str:
        folder = tmp_path / "refused"
        folder.mkdir()
        with pytest.raises(FailedHookException):
            render(output_dir=folder, **answers)
        folder.rmdir()  # which only an empty folder allows
        errors = capfd.readouterr().err
        assert errors.isascii()
        return errors

    return refusal


@pytest.fixture
def cli(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs the real `cookiecutter` in `tmp_path / "work"`, with an empty home."""
    work = tmp_path / "work"
    work.mkdir()
    home = {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}

    def cli(*arguments: str, enter: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            [Path(sys.executable).with_name("cookiecutter"), *arguments],
            cwd=work, env=os.environ | home, input=enter, text=True, capture_output=True,
        )  # fmt: skip

    cli.folder = work
    return cli


@pytest.fixture(scope="session")
def repository():
    """The line of pyproject.toml that installs detectron2 can be followed."""
    pyproject = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}/pyproject.toml"
    url = re.search(r"git\+(\S+?)@", pyproject.read_text(encoding="utf-8"))[1]
    try:
        found = subprocess.run(["git", "ls-remote", url, "HEAD"], capture_output=True, timeout=60)
        reached = found.returncode == 0
    except subprocess.TimeoutExpired:
        reached = False
    if not reached:
        reason = f"{url} cannot be reached: nothing that trains was tested"
        if os.environ.get("REQUIRE_DETECTRON2") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def make_project(repository, render, tmp_path_factory):
    environments = tmp_path_factory.mktemp("environments")
    datasets = tmp_path_factory.mktemp("datasets")

    def make_project(**answers) -> Project:
        kind = "lightning" if answers.get("trainer") == "lightning" else "others"
        project = Project(render(**answers), environments / kind, datasets)
        if kind in made and "lvis" not in (project.folder / "pyproject.toml").read_text():
            # Its lock file spares the others to resolve the same dependencies.
            (project.folder / "uv.lock").write_bytes((made[kind].folder / "uv.lock").read_bytes())
        elif kind in made:
            project.run("python", "-c", "import lvis")
        else:
            project.run("--extra", "timm", "python", "-c", "" if made else FEWER_SHAPES)
            modules = ["lightning.pytorch"] if kind == "lightning" else []
            servers[kind] = ForkServer(environments / kind / "bin/python", *modules)
            made[kind] = project
        project.server = servers[kind]
        return project

    made, servers = {}, {}
    yield make_project
    for server in servers.values():
        server.process.stdin.close()
        server.process.wait()


@pytest.fixture(scope="session")
def project(make_project):
    """The project of the default answers, with a data set that is evaluated in a second."""
    return make_project()


@pytest.fixture(scope="session")
def projects(project, make_project):
    """One for each trainer, made when it is asked for."""

    def get(trainer) -> Project:
        if trainer not in made:
            made[trainer] = make_project(trainer=trainer)
        return made[trainer]

    made = {"plain": project}
    return get
