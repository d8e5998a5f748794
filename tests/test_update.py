"""An update of the library in a project whose owner has edited the rest."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE

GIT = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]


def run(folder, *command) -> str:
    process = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def commit(folder):
    run(folder, *GIT, "add", "-A")
    run(folder, *GIT, "commit", "-qm", "change")


@pytest.fixture
def template(tmp_path):
    """A repository of the template as it is now."""
    folder = tmp_path / "template"
    listed = run(TEMPLATE, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (TEMPLATE / name).is_file():  # else it was removed since the last commit
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, folder / name)
    run(folder, "git", "init", "-q")
    commit(folder)
    return folder


EDITS = {
    "plain_train_net.py": ("            optimizer.zero_grad()\n", "            print(iteration)\n"),
    "my_detector/config.py": ('"""\n', "# A key of mine.\n"),
    "configs/base.yaml": ("\n", "# A comment of mine.\n"),
    "configs/smoke.yaml": ("\n", "# Another.\n"),
    "my_detector/data/dataset_mapper.py": ('"""\n', "# A mapper of mine.\n"),
}


@pytest.mark.parametrize("trainer", ["plain", "lazyconfig"])
def test_update_leaves_the_edits_of_the_owner(template, tmp_path, trainer):
    cruft = str(Path(sys.executable).with_name("cruft"))
    answers = f'{{"trainer": "{trainer}"}}'
    run(tmp_path, cruft, "create", str(template), "--no-input", "--extra-context", answers)
    project = tmp_path / "my-detector"
    run(project, "git", "init", "-q")
    edits = {name: edit for name, edit in EDITS.items() if (project / name).exists()}
    for name, (line, added) in edits.items():
        text = (project / name).read_text(encoding="utf-8")
        assert line in text
        (project / name).write_text(text.replace(line, line + added, 1), encoding="utf-8")
    (project / "my_detector/modelling/mine.py").write_text("MINE = 1\n", encoding="utf-8")
    commit(project)
    library = template / "{{cookiecutter.project_slug}}/d2_starter"
    changed = library / "run/ema.py"
    changed.write_text(f"{changed.read_text(encoding='utf-8')}\n# New.\n", encoding="utf-8")
    (library / "run/new.py").write_text('"""Is new."""\n', encoding="utf-8")
    (library / "pictures/command.py").unlink()
    run(template, sys.executable, "tests/make_manifest.py")
    commit(template)
    said = run(project, cruft, "update", "-y")
    assert not [*project.rglob("*.rej")], said
    for name, (_, added) in edits.items():
        assert added in (project / name).read_text(encoding="utf-8")
    assert (project / "my_detector/modelling/mine.py").exists()
    assert (project / "d2_starter/run/ema.py").read_text(encoding="utf-8").endswith("# New.\n")
    assert (project / "d2_starter/run/new.py").exists()
    assert not (project / "d2_starter/pictures/command.py").exists()
    # And what its owner edits in the library is named.
    check = ["env", f"PYTHONPATH={project}", sys.executable, "tools/check_library.py"]
    run(project, *check)
    (project / "d2_starter/run/ema.py").write_text("", encoding="utf-8")
    process = subprocess.run(check, cwd=project, text=True, capture_output=True)
    assert process.returncode and "run/ema.py" in process.stdout + process.stderr
