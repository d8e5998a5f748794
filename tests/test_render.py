"""Every combination of choices, and hostile answers: what is rendered is whole and exact."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ANSWERS, TEMPLATE
from test_architecture import LIBRARY, PROJECT

QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
CHOICES = {
    question: choices for question, choices in QUESTIONS.items() if isinstance(choices, list)
}
FILES = """
    .dockerignore
    .github/workflows/tests.yml
    .gitignore
    Dockerfile
    LICENSE
    Makefile
    README.md
    datasets.json
    docker/check_detectron2.py
    docker/detectron2.Dockerfile
    my_detector/__init__.py
    my_detector/data/__init__.py
    my_detector/data/dataset.py
    my_detector/data/dataset_mapper.py
    my_detector/experiment.py
    my_detector/modelling/__init__.py
    my_detector/modelling/tiny_backbone.py
    pyproject.toml
    tests/conftest.py
    tests/overrides.py
    tests/test_config.py
    tests/test_dataset.py
    tests/test_dataset_mapper.py
    tests/test_training.py
"""
TOOLS = {f"tools/{path.name}" for path in PROJECT.glob("tools/*.py")}
# Of the library: all but what is of some trainers alone.
LIBRARY_FILES = {
    f"d2_starter/{path.relative_to(LIBRARY).as_posix()}" for path in LIBRARY.rglob("*.*")
}
HOOKS = {f"d2_starter/trainers/{name}.py" for name in ("hooks", "train_loop")}
LIGHTNING, TRAINERS = "d2_starter/trainers/lightning.py", "d2_starter/trainers/__init__.py"
LAZY = "d2_starter/config/lazy.py"
YAML = {f"d2_starter/config/{name}.py" for name in ("yaml", "keys", "model_keys")}
DEFAULT_TRAINER = "d2_starter/trainers/default_trainer.py"
OF_TRAINERS = {*HOOKS, DEFAULT_TRAINER, LIGHTNING, TRAINERS, LAZY, *YAML}
YAML |= {"my_detector/config.py"}
YAML |= {f"configs/dataset/{kind}.yaml" for kind in ("instances", "panoptic", "semantic")}
TRAINER = {
    "plain": {"plain_train_net.py", *YAML},
    "train_net": {"train_net.py", *HOOKS, DEFAULT_TRAINER, TRAINERS, *YAML},
    "lazyconfig": {"lazyconfig_train_net.py", *HOOKS, TRAINERS, LAZY},
    "lightning": {"lightning_train_net.py", LIGHTNING, TRAINERS, *YAML},
}
DATA = ["shapes", "custom", "coco:", "voc:"]  # tests/test_data.py has all formats
CLUSTER = {
    "none": set(),
    "slurm": {"slurm/train.sbatch", "slurm/evaluate.sbatch"},
    "kubernetes": {"k8s/volume.yaml", "k8s/train.yaml", "k8s/evaluate.yaml"},
}
# Every trainer with every format, and each of them with every cluster and every licence.
COMBINATIONS = [
    {
        "trainer": trainer,
        "data": data,
        "cluster": CHOICES["cluster"][(i + j) % 3],
        "license": CHOICES["license"][(i + j) % 4],
    }
    for i, trainer in enumerate(CHOICES["trainer"])
    for j, data in enumerate(DATA)
]


@pytest.fixture(scope="module", params=COMBINATIONS, ids=lambda answers: "-".join(answers.values()))
def answers(request) -> dict[str, str]:
    return request.param


@pytest.fixture(scope="module")
def project(render, answers) -> Path:
    return render(**answers)


def files(project: Path) -> dict[str, str]:
    """All files of a project but pictures, and their text, which is UTF-8 throughout."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes().decode("utf-8")
        for path in project.rglob("*")
        if path.is_file() and path.suffix not in (".jpg", ".png")
    }


def ruff(project: Path, *arguments: str):
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."],
        cwd=project, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def parse(project: Path):
    """Reads every file in its own language."""
    for name, text in files(project).items():
        match Path(name).suffix:
            case ".py":
                compile(text, name, "exec")
            case ".toml":
                tomllib.loads(text)
            case ".yaml" | ".yml":
                list(yaml.safe_load_all(text))
            case ".json":
                json.loads(text)


def test_at_most_eight_questions():
    assert len([question for question in QUESTIONS if not question.startswith("_")]) <= 8


@pytest.mark.parametrize("question", ["data", "cluster", "license"])
def test_every_trainer_is_rendered_with_every_answer(question):
    rendered = {(answers["trainer"], answers[question]) for answers in COMBINATIONS}
    choices = CHOICES.get(question, DATA)
    assert rendered == {(trainer, choice) for trainer in TRAINER for choice in choices}


def test_ci_runs_the_test_command_of_the_readme():
    command = "pip install uv && uv run pytest\n"
    assert f"```sh\n{command}```" in (TEMPLATE / "README.md").read_text(encoding="utf-8")
    assert (TEMPLATE / ".ci/run").read_text(encoding="utf-8").endswith(f"\n{command}")


def test_files(project, answers):
    suffix = "py" if answers["trainer"] == "lazyconfig" else "yaml"
    expected = {*FILES.split(), *TOOLS, *TRAINER[answers["trainer"]], *CLUSTER[answers["cluster"]]}
    expected |= LIBRARY_FILES - OF_TRAINERS
    expected |= {f"configs/{path.name}" for path in PROJECT.glob(f"configs/*.{suffix}")}
    expected |= {f"docs/{path.name}" for path in PROJECT.glob("docs/*.*") if path.suffix != ".jpg"}
    expected -= {"LICENSE"} if answers["license"] == "none" else set()
    assert set(files(project)) == expected
    assert all(any(folder.iterdir()) for folder in project.rglob("*") if folder.is_dir())


def test_nothing_of_the_template_is_left(project):
    for name, text in files(project).items():
        if name.startswith(".github/workflows/"):
            text = re.sub(r"\$\{\{.*?\}\}", "", text)  # GitHub's own expressions
        if name.startswith("d2_starter/"):
            continue  # it is copied as it is; tests/test_architecture.py looks for braces
        left = r"\{[{%#]|[%#]\}|cookiecutter|\ue000|dataset\.json"
        assert not re.search(left, name + text, re.IGNORECASE), name


def test_files_parse(project):
    parse(project)


def test_the_library_imports_no_module_that_was_left_out(project):
    for file in (project / "d2_starter").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                path = file.parents[node.level - 1].joinpath(*node.module.split("."))
                assert path.is_dir() or path.with_suffix(".py").is_file(), (file, node.module)


def test_text_files_end_with_one_newline(project):
    for name, text in files(project).items():
        assert not text or re.search(r"\S\n\Z", text), name
        assert "\r" not in text, name
        assert "\t" not in text or name == "Makefile", name


def test_the_project_passes_its_own_linter(project):
    ruff(project, "check")
    ruff(project, "format", "--diff")


def test_readme_names_only_files_that_are_there(project):
    present = "".join(f"/{name}\n" for name in files(project))
    readme = (project / "README.md").read_text(encoding="utf-8")
    users = "train|val|annotations|Annotations|JPEGImages|ImageSets"  # folders of a data set
    made_later = rf"\b(output|datasets|{users})/\S*|`config\.yaml`|\S*\b(my_[a-z]+|mine)\.(py|yaml)"
    readme = re.sub(rf"https?://\S+|<!--.*?-->|{made_later}", "", readme)
    named = re.findall(r"[\w./-]*\w\.(?:py|yaml|yml|toml|md)\b", readme)
    assert named
    for name in named:
        assert f"/{name.removeprefix('./')}\n" in present, name
    for folder in re.findall(r"`([\w./-]+/)`", readme):
        assert f"/{folder}" in present, folder


def test_license(project, answers):
    if answers["license"] == "none":
        return  # test_files looks for one
    text = (project / "LICENSE").read_text(encoding="utf-8")
    titles = {"Apache-2.0": "Apache License", "BSD-3-Clause": "BSD 3-Clause License"}
    assert titles.get(answers["license"], f"{answers['license']} License") in text
    assert re.search(r"^ *Copyright (\(c\) )?20\d\d,? The My Detector authors$", text, re.MULTILINE)


HARMLESS = [
    "single ' and '' and '''",
    'double " and "" and """',
    "back \\ slash \\n \\u0041",
    "ends with a backslash \\",
    '\\"',
    "{ a*b } }} %} #}",
    "$(touch pwned) ; touch pwned",
    "`touch pwned`",
    "${HOME} $HOME %USERPROFILE%",
    "</script><b>&amp; <!--",
    "# hash: [a](b) *c* | d",
    "- dash",
    "@at, !bang, &and, *star, ? : -",
    "Z\u00fcrich \u00df",
    "\u6771\u4eac\u6aa2\u51fa",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f680 \U0001d504",
    "x" * 80,
]
REFUSED = [
    "",
    "line\nbreak",
    "carriage\rreturn",
    "tab\tulator",
    "nul-like \x01 \x7f \x85 \u2028",
    "zero\u200bwidth",
    "{{ 7*7 }}",
    "{% raw %}",
    "{# hidden #}",
    "x" * 300,
]


def check_says(project: Path, text: str):
    parse(project)
    ruff(project, "check")
    ruff(project, "format", "--diff")
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["description"] == text
    assert metadata["authors"] == [{"name": text}]
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {text}\n")
    assert text in (project / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_said_exactly(render, text):
    project = render(typed=True, **ANSWERS | {"project_name": text, "author": text})
    check_says(project, text)
    assert not list(project.parent.rglob("pwned"))


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_project_names_make_harmless_defaults(render, text):
    """Of the folder, the package and the author."""
    project = render(project_name=text)
    assert re.fullmatch("[a-z0-9-]{1,40}", project.name)
    parse(project)


@pytest.mark.parametrize("text", ["a\\b", "$(touch pwned) `touch pwned` '; touch pwned #"])
def test_no_shell_reads_an_answer(cli, text):
    run = cli(str(TEMPLATE), "--no-input", f"project_name={text}", f"author={text}")
    assert run.returncode == 0, run.stderr
    (project,) = cli.folder.iterdir()
    check_says(project, text)
    assert not list(cli.folder.rglob("pwned"))


@pytest.mark.parametrize("text", REFUSED)
def test_harmful_text_is_refused(refusal, text):
    messages = refusal(typed=True, **ANSWERS | {"project_name": text, "author": text})
    assert f"project_name {text!a}" in messages
    assert f"author {text!a}" in messages


@pytest.mark.parametrize("text", [*HARMLESS, *REFUSED])
def test_names_are_no_place_for_text(refusal, text):
    bad = {"package_name": text}
    if text and "/" not in text and len(text) <= 255:  # else no hook gets to see the folder's name
        bad["project_slug"] = text
    messages = refusal(typed=True, **ANSWERS | bad)
    for question in bad:
        assert f"{question} {text!a}" in messages


@pytest.mark.parametrize("slug", ["", "x" * 300, "{% raw %}"])
def test_what_no_hook_gets_to_see_leaves_nothing(cli, slug):
    run = cli(str(TEMPLATE), "--no-input", f"project_slug={slug}")
    assert run.returncode == 1
    assert not list(cli.folder.iterdir())
