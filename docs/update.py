#!/usr/bin/env python
"""Writes what the READMEs show of runs and files: transcript, tree, tools, questions.

    uv run python docs/update.py            # from the files, and from the recorded run
    uv run python docs/update.py --record   # runs the README's first command before, in minutes
    uv run python docs/update.py --check    # writes nothing; fails if a README is out of date

A block begins with `<!-- NAME: written by ... -->` and ends with `<!-- end -->`. The recorded run
is in docs/recorded_run.txt, with docs/predictions.jpg; the tests that train compare its numbers.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]
PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
RUN = TEMPLATE / "docs/recorded_run.txt"
PICTURES = TEMPLATE / "docs/predictions.jpg"
READMES = [TEMPLATE / "README.md", PROJECT / "README.md"]
COMMAND = "uv run plain_train_net.py --config-file configs/smoke.yaml"
# Lines of the log that the README shows; what is after the first group is left out.
SHOWN = re.compile(
    r"(Installed \d+ packages.*|.*\]: Command: .*|.*\]: Output: .*|.*\]: An epoch is .*"
    r"|.*iter: [13]9  total_loss: \S+).*"
)
# Files and folders of a project that have no docstring, in the order of the tree.
WHAT = {
    "plain_train_net.py": "yours: the training loop; or one of the three other trainers",
    "configs": "yours: one short file an experiment",
    "datasets.json": "yours: where your datasets are, and what is in them",
    "my_detector": "yours: config keys, datasets, mapper, layers; made to be read and changed",
    "tools": "yours: commands, each a few lines over the library",
    "tests": "yours: for your code; they start green",
    "d2_starter": "the library: an update replaces it",
    "docs": "one page a subject: data, training, evaluation, use, ...",
    "Dockerfile": "the project in an image",
    "docker": "detectron2:v0, the image below that",
    "Makefile": "builds and runs the images",
}
UNNAMED = {".dockerignore", ".github", ".gitignore", "LICENSE", "README.md", "pyproject.toml"}


def first_line(file: Path) -> str:
    """Returns the first line of a module's docstring, without the hint to --help."""
    text = re.sub(r"{{.*?}}", "my_detector", file.read_text(encoding="utf-8"))
    line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    if not line:
        sys.exit(f"{file.relative_to(TEMPLATE)} has no docstring, which the README shows.")
    return re.split(r": (?:uv run|see --help)", line)[0].rstrip(".")


def tree() -> str:
    """Returns the files of a project with the default answers, and what they are."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=folder))
        names = {path.name for path in project.iterdir()}
        inside = [
            path.relative_to(project / "my_detector").as_posix()
            for path in sorted((project / "my_detector").rglob("*.py"))
            if path.name != "__init__.py"
        ]
    if different := names ^ (WHAT.keys() | UNNAMED):
        sys.exit(f"docs/update.py: WHAT does not describe {', '.join(sorted(different))}.")
    rooms = [path.parent.name for path in sorted((PROJECT / "d2_starter").glob("*/__init__.py"))]
    lines = ["my-detector/"]
    for name, what in WHAT.items():
        shown = name if "." in name or name[0].isupper() else f"{name}/"
        lines.append(f"  {shown:22} {what}")
        lines += wrap({"my_detector": inside, "d2_starter": rooms}.get(name, []))
    return code(lines)


def wrap(names: list[str]) -> list[str]:
    """Returns names in lines of up to 100 characters, as part of the tree."""
    indent = " " * 25
    return textwrap.wrap("  ".join(names), 100, initial_indent=indent, subsequent_indent=indent)


def transcript() -> str:
    """Returns the recorded run, shortened."""
    lines, is_end = [], False
    for line in RUN.read_text(encoding="utf-8").splitlines():
        is_end = is_end or line.endswith("]: Done.")
        match = SHOWN.fullmatch(line)
        if is_end or match:
            shown = line if is_end or match[1] == line else f"{match[1]} [...]"
            lines.append(shown)
        elif lines[-1:] != ["[...]"]:
            lines.append("[...]")
    return code(lines)


def numbers(output: str) -> dict[str, float]:
    """Returns the metrics in the last lines of a run, by name."""
    found = re.findall(r"(?m)^  (\S+/\S+) +([\d.]+)$", output[output.index("]: Done.") :])
    return {name: float(value) for name, value in found}


def tools() -> str:
    """Returns a table of the tools."""
    files = sorted((PROJECT / "tools").glob("*.py"))
    rows = [f"| `tools/{file.name}` | {first_line(file)} |" for file in files]
    return "\n".join(["| Command: `uv run ...` | |", "|---|---|", *rows])


def questions() -> str:
    """Returns a table of the questions in cookiecutter.json."""
    asked = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    prompts = asked["__prompts__"]
    rows = []
    for name, default in asked.items():
        if name.startswith("_"):
            continue
        prompt = prompts[name]
        if isinstance(default, list):
            prompt = f"{prompt['__prompt__']}: {', '.join(f'`{choice}`' for choice in default)}"
            default = default[0]
        default = default.replace("{{ cookiecutter.project_name }}", "My Detector")
        if source := re.match(r"{{ cookiecutter\.(\w+)", default):
            default = f"from `{source[1]}`"
        rows.append(f"| `{name}` | {default} | {prompt} |")
    return "\n".join(["| Question | Default | |", "|---|---|---|", *rows])


def code(lines: list[str]) -> str:
    """Returns lines as a block of code."""
    return "\n".join(["```", *lines, "```"])


BLOCKS = {f.__name__: f for f in (tree, transcript, tools, questions)}


def updated(readme: Path) -> str:
    """Returns the text of a README with its blocks written anew."""
    text = readme.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- (\w+): written by", text):
        block = BLOCKS[name]()
        pattern = rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, b=block: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL)
    return text


def record():
    """Runs the README's command, and keeps what it prints and draws."""
    with tempfile.TemporaryDirectory() as folder:
        output, environ = "", {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
        for command, where in (
            (["uvx", "cookiecutter", str(TEMPLATE), "--no-input", "-o", folder], folder),
            (COMMAND.split(), f"{folder}/my-detector"),
        ):
            run = subprocess.run(
                command, cwd=where, env=environ, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            output += re.sub(r"Using CPython.*\n", "", run.stdout)  # where that is
            if run.returncode:
                sys.exit(output)
        RUN.write_text(output.replace(folder, "/home/me"), encoding="utf-8")
        draw(sorted(Path(folder, "my-detector/output/smoke/predictions").glob("*.jpg"))[:4])


def draw(files: list[Path]):
    """Puts four pictures into one."""
    from PIL import Image

    size, gap = (644, 320), 8
    sheet = Image.new("RGB", (2 * size[0] + gap, 2 * size[1] + gap), "white")
    for number, file in enumerate(files):
        place = ((number % 2) * (size[0] + gap), (number // 2) * (size[1] + gap))
        with Image.open(file) as picture:
            sheet.paste(picture.resize(size), place)
    sheet.save(PICTURES, quality=85)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="run the README's command first")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    if args.record:
        record()
    texts = {readme: updated(readme) for readme in READMES}
    old = [f for f, text in texts.items() if text != f.read_text(encoding="utf-8")]
    if args.check:
        if old:
            names = ", ".join(str(readme.relative_to(TEMPLATE)) for readme in old)
            sys.exit(f"Out of date: {names}. Run uv run python docs/update.py.")
        return
    for readme in old:
        readme.write_text(texts[readme], encoding="utf-8")


if __name__ == "__main__":
    main()
