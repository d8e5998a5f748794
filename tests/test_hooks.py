"""What the hooks refuse, what they suggest instead, and that nothing is left or lost."""

import ast
import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from conftest import ANSWERS, TEMPLATE
from cookiecutter.exceptions import FailedHookException
from cookiecutter.hooks import run_script_with_context

REFUSED = [
    # question, bad answer, part of the reason
    ("project_name", "", "1 to 80"),
    ("project_name", " ", "white space"),
    ("project_name", "two\nlines", "printed"),
    ("project_name", "bell\a", "printed"),
    ("project_name", "right to left \u202e override", "printed"),
    ("project_name", "x" * 300, "1 to 80"),
    ("project_name", "{{ 7*7 }}", "template braces"),
    ("project_name", "{% raw %}a{% endraw %}", "template braces"),
    ("project_name", "a{# hidden #}b", "template braces"),
    ("author", "", "1 to 100"),
    ("author", "tab\there", "printed"),
    ("author", "Zo\u00eb " * 50 + "Z", "1 to 100"),
    ("author", "{{ 7*7 }}", "template braces"),
    ("project_slug", "-dash", "letter or digit"),
    ("project_slug", "dot.", "letter or digit"),
    ("project_slug", "two words", "letter or digit"),
    ("project_slug", "newline\n", "printed"),
    ("project_slug", "gr\u00f6\u00dfe", "letter or digit"),
    ("project_slug", "\u212aelvin", "letter or digit"),  # lower() makes it an ASCII k
    ("project_slug", "x" * 61, "1 to 60"),
    ("project_slug", "x" * 200, "1 to 60"),
    ("project_slug", "a\\b", "letter or digit"),
    ("project_slug", "CON", "Windows"),
    ("project_slug", "lpt1.detector", "Windows"),
    ("project_slug", "Hydra.Core", "project needs"),
    ("package_name", "", "1 to 40"),
    ("package_name", "7segments", "letter in front"),
    ("package_name", "_private", "letter in front"),
    ("package_name", "My-Package", "a-z"),
    ("package_name", "a.b", "a-z"),
    ("package_name", "../up", "a-z"),
    ("package_name", "x" * 41, "1 to 40"),
    ("package_name", "class", "keyword"),
    ("package_name", "match", "keyword"),
    ("package_name", "random", "standard library"),
    ("package_name", "torch", "project needs"),
    ("package_name", "tools", "another file"),
    ("package_name", "nul", "Windows"),
    ("data", "", "1 to 1000"),
    ("data", "{{ 7*7 }}", "template braces"),
    ("data", "two\nlines", "printed"),
]


def suggestions(messages: str) -> dict[str, str]:
    found = re.findall(r"^(\w+) .* type for example ('.*'|\".*\")$", messages, re.MULTILINE)
    return {question: ast.literal_eval(suggestion) for question, suggestion in found}


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("question, answer, reason", REFUSED)
def test_refusal_names_the_answer_and_an_accepted_one(render, refusal, question, answer, reason):
    messages = refusal(**{question: answer})
    (message,) = [line for line in messages.splitlines() if line.startswith(f"{question} ")]
    assert ascii(answer) in message and reason in message
    assert question in suggestions(messages)
    assert render(**{question: answer} | suggestions(messages)).is_dir()


def test_all_problems_are_told_at_once(refusal):
    messages = refusal(author="", package_name="class", data=" ")
    assert suggestions(messages).keys() == {"author", "package_name", "data"}


@pytest.mark.parametrize(
    "question, answer, suggested",
    [
        ("project_name", "two\nlines", "two lines"),
        ("project_name", "\u200b", "my project"),
        ("project_slug", "-Dash", "Dash"),
        ("project_slug", "CON", "my-con"),
        ("project_slug", "\u200b", "my-project"),
        ("package_name", "My-Package", "my_package"),
        ("package_name", "class", "my_class"),
        ("package_name", "7segments", "my_7segments"),
        ("package_name", "\u200b", "my_package"),
        ("data", "\u200b", "shapes"),
    ],
)
def test_suggestions_are_near_the_answer(refusal, question, answer, suggested):
    assert suggestions(refusal(**{question: answer}))[question] == suggested


def is_accepted(folder: Path, **answers: str) -> bool:
    """Runs the pre-generation hook alone, which is much faster than to render."""
    context = {"cookiecutter": ANSWERS | answers}
    try:
        run_script_with_context(TEMPLATE / "hooks/pre_gen_project.py", folder, context)
    except FailedHookException:
        return False
    return True


@pytest.mark.parametrize("cluster", ["slurm", "kubernetes"])
def test_names_that_the_project_uses_itself_are_refused(render, tmp_path, cluster):
    """A package called like a dependency, or like a folder next to it, would shadow it."""
    project = render(cluster=cluster)
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = metadata["project"]["dependencies"] + metadata["dependency-groups"]["dev"]
    requirements += metadata["project"]["optional-dependencies"]["timm"]
    for package in metadata["tool"]["uv"]["dependency-metadata"]:
        requirements += package["requires-dist"]
    needed = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}
    used = {path.stem for path in project.iterdir() if not path.name.startswith(".")}
    used -= {"README", "LICENSE", "pyproject", "Dockerfile", "my_detector"}
    shadows = used | {name.replace("-", "_") for name in needed}
    assert is_accepted(tmp_path)
    assert not [name for name in needed if is_accepted(tmp_path, project_slug=name)]
    assert not [name for name in shadows if is_accepted(tmp_path, package_name=name)]


@pytest.mark.parametrize(
    "argument",
    [
        "project_name={{ 7*7 }}",
        "project_slug={{ 'a' }}",
        "package_name={% if true %}x{% endif %}",
        "data=shapes{# hidden #}",
    ],
)
def test_template_braces_are_refused(cli, argument):
    """Cookiecutter evaluates them without a word."""
    run = cli("--no-input", str(TEMPLATE), argument)
    question, _, answer = argument.partition("=")
    assert run.returncode == 1
    assert f"{question} {answer!r}" in run.stderr
    assert suggestions(run.stderr).keys() >= {question}
    assert not list(cli.folder.iterdir())


def test_equals_signs_elsewhere_on_the_command_line_are_no_answers(cli):
    (cli.folder / "template=1").symlink_to(TEMPLATE, target_is_directory=True)
    (cli.folder / "config=1").write_text("default_context: {full_name: unknown here}\n")
    run = cli(
        "template=1", "--config-file=config=1", "-o", "out=1", "--debug-file", "debug=1",
        "--no-input", "project_name=a = b", "author=c=d", "-f",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (cli.folder / "out=1/a-b/README.md").read_text(encoding="utf-8").startswith("# a = b\n")


def test_braces_in_the_users_settings_are_refused_too(cli):
    (cli.folder / "config.yaml").write_text('default_context: {author: "{{ 7*7 }}"}\n')
    run = cli("--config-file", "config.yaml", "--no-input", str(TEMPLATE))
    assert run.returncode == 1
    assert "author '{{ 7*7 }}'" in run.stderr


def test_answers_changed_at_the_prompt_count(cli):
    """The value of the command line is only the default of the prompt then."""
    run = cli(str(TEMPLATE), "project_name=First", enter="Second\n" + 7 * "\n")
    assert run.returncode == 0, run.stderr
    assert [path.name for path in cli.folder.iterdir()] == ["second"]


def test_enter_eight_times_makes_a_project(cli):
    run = cli(str(TEMPLATE), enter=8 * "\n")
    assert run.returncode == 0, run.stderr
    assert (cli.folder / "my-detector/plain_train_net.py").is_file()
    assert run.stdout.endswith(
        "Next:\n  cd my-detector\n  uv run plain_train_net.py --config-file configs/smoke.yaml\n"
    )


@pytest.mark.parametrize("slug", ["../x", "a b", "/tmp/d2-starter-refused"])
def test_refused_folders_are_removed(cli, slug):
    run = cli(str(TEMPLATE), "--no-input", f"project_slug={slug}")
    assert run.returncode == 1
    assert suggestions(run.stderr)["project_slug"]
    assert not (cli.folder / slug).exists()
    assert not list(cli.folder.iterdir())


def test_an_empty_parent_folder_may_remain(cli):
    """Cookiecutter makes a/b before any hook, and removes b only: no hook can do better."""
    run = cli(str(TEMPLATE), "--no-input", "project_slug=a/b")
    assert run.returncode == 1
    assert list(cli.folder.rglob("*")) == [cli.folder / "a"]


@pytest.mark.parametrize("bad", ["project_slug=..", "project_slug=", "project_slug=."])
def test_overwriting_a_parent_folder_is_refused(cli, bad):
    (cli.folder / "mine.txt").write_text("mine")
    before = fingerprint(cli.folder.parent)
    run = cli(str(TEMPLATE), "--no-input", "-f", bad)
    assert run.returncode == 1
    assert suggestions(run.stderr)["project_slug"]
    after = fingerprint(cli.folder.parent)
    assert {name: after[name] for name in before} == before
    assert [path.name for path in cli.folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("bad", ["author=", "package_name=torch"])
def test_a_refusal_leaves_an_existing_project_alone(cli, bad):
    assert cli(str(TEMPLATE), "--no-input").returncode == 0
    project = cli.folder / "my-detector"
    (project / "plain_train_net.py").write_text("# mine\n")
    (project / "notes.txt").write_text("mine\n")
    before = fingerprint(project)
    run = cli(str(TEMPLATE), "--no-input", "-f", bad)
    assert run.returncode == 1
    assert fingerprint(project) == before


@pytest.mark.parametrize("license, cluster", [("none", "none"), ("BSD-3-Clause", "kubernetes")])
def test_overwriting_with_other_answers_equals_a_new_project(render, tmp_path, license, cluster):
    new = {"data": "voc:", "license": license, "cluster": cluster}
    project = render(output_dir=tmp_path, license="MIT", cluster="slurm")
    mine = project / "configs/mine.bin"
    mine.write_bytes(b"\xff\x00")  # is no text
    overwritten = fingerprint(render(output_dir=tmp_path, **new))
    del overwritten["configs/mine.bin"]
    assert overwritten == fingerprint(render(**new))
    assert not (project / "slurm").exists()


def test_overwriting_keeps_the_users_files_for_a_cluster(render, tmp_path):
    mine = render(output_dir=tmp_path, cluster="slurm") / "slurm/mine.sbatch"
    mine.write_text("mine\n")
    render(output_dir=tmp_path)
    assert list(mine.parent.iterdir()) == [mine]


@pytest.mark.parametrize(
    "data, cluster", [("shapes", "none"), ("voc:", "slurm"), ("custom", "kubernetes")]
)
def test_running_the_post_generation_hook_again_changes_nothing(render, data, cluster):
    answers = {"data": data, "license": "MIT", "cluster": cluster}
    project = render(**answers)
    before = fingerprint(project)
    context = {"cookiecutter": ANSWERS | answers}
    run_script_with_context(TEMPLATE / "hooks/post_gen_project.py", project, context)
    assert fingerprint(project) == before
