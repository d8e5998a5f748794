"""Refuses answers that cannot become a working project, before the first file is written.

It runs in the new folder, which cookiecutter removes again; an existing folder stays as it was.
(Of the project_slug a/b an empty folder a remains: cookiecutter makes it before any hook.)
Messages are ASCII, because some Windows terminals crash on anything else.
"""

import difflib
import json
import keyword
import os
import re
import sys
from pathlib import Path

# JSON in raw strings: tojson escapes the quote ', so no answer can end them.
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')  # fmt: skip
UNRENDERED = json.loads(r'''{{ _cookiecutter | default({}) | tojson }}''')  # fmt: skip

TEMPLATE_BRACES = re.compile(r"[{][%#{]")
OPTIONS_WITH_VALUE = """-c -o --accept-hooks --checkout --config-file --debug-file --directory
    --output-dir --replay-file""".split()

NO_DEVICE = r"(?!(?i:con|prn|aux|nul|(com|lpt)\d)([.]|\Z))"
FORMATS = {  # question: (regular expression, the same in words)
    "project_name": (r"\S(.{0,78}\S)?", "1 to 80 characters without white space around them"),
    "project_slug": (
        NO_DEVICE + "[A-Za-z0-9]([A-Za-z0-9._-]{0,58}[A-Za-z0-9])?",
        "1 to 60 of A-Z a-z 0-9 . _ - with a letter or digit at both ends, or is a Windows device",
    ),
    "package_name": (
        NO_DEVICE + "[a-z][a-z0-9_]{0,39}",
        "1 to 40 of a-z 0-9 _ with a letter in front, or is a Windows device",
    ),
    "author": (r"\S(.{0,98}\S)?", "1 to 100 characters without white space around them"),
    "data": (r"\S(.{0,998}\S)?", "1 to 1000 characters without white space around them"),
}

NEEDED = """absl absl_py aiohappyeyeballs aiohttp aiosignal antlr4 attr attrs black click
    cloudpickle contourpy cuda cv2 cycler dateutil detectron2 filelock fonttools frozenlist
    fsspec functorch fvcore google grpc grpcio hydra hydra_core idna iniconfig iopath jinja2
    kiwisolver lightning lightning_fabric lightning_utilities markdown markupsafe matplotlib
    mpl_toolkits mpmath multidict networkx ninja numpy nvidia omegaconf opencv_python
    opencv_python_headless packaging pathspec pil pillow pip pkg_resources platformdirs
    pluggy portalocker propcache protobuf pycocotools pygments pylab pyparsing pytest
    python_dateutil pytorch_lightning pyyaml ruff setuptools shapely six sympy tabulate
    tensorboard termcolor torch torchgen torchmetrics torchvision tqdm triton
    typing_extensions tzdata werkzeug wheel yacs yaml yarl""".split()
NEIGHBOURS = """build configs data datasets dist docker docs k8s output slurm src tests tools
    plain_train_net train_net lazyconfig_train_net lightning_train_net""".split()
TAKEN = {
    "project_slug": {"a package that the project needs": NEEDED},
    "package_name": {
        "a keyword of Python": keyword.kwlist + keyword.softkwlist,
        "a module of Python's standard library": sys.stdlib_module_names,
        "a package that the project needs": NEEDED,
        "another file or folder of the project": NEIGHBOURS,
    },
}


def why_not(question: str, answer: str) -> str:
    """The reason to refuse an answer, or an empty string."""
    pattern, in_words = FORMATS[question]
    if TEMPLATE_BRACES.search(answer):
        return "has template braces, which cookiecutter evaluates"
    if not answer.isprintable():
        return "has characters that cannot be printed"
    if not re.fullmatch(pattern, answer):
        return f"is not {in_words}"
    name = re.sub("[._-]+", "_", answer.lower())
    taken = TAKEN.get(question, {}).items()
    return next((f"is {whose}" for whose, names in taken if name in names), "")


def suggestion(question: str, answer: str) -> str:
    """What would be accepted, as near to the answer as possible."""
    if question == "data":
        return "shapes"
    separator = {"project_name": " ", "author": " ", "project_slug": "-"}.get(question, "_")
    words = re.findall("[A-Za-z0-9]+", answer) or ["my", question.split("_")[0]]
    texts = [separator.join(some)[:30].strip(separator) for some in (words, ["my", *words])]
    candidates = [texts[0], texts[0].lower(), texts[1].lower()]
    return next(text for text in candidates if not why_not(question, text))


def command_line() -> dict[str, str]:
    """The `key=value` arguments of the cookiecutter command that runs this hook, on Linux."""
    try:
        arguments = os.fsdecode(Path(f"/proc/{os.getppid()}/cmdline").read_bytes())
        before, after = arguments.split(f"\0{ANSWERS.get('_template')}\0", maxsplit=1)
    except (OSError, ValueError):
        return {}
    if "cookiecutter" not in [Path(argument).stem for argument in before.split("\0")]:
        return {}
    after = after.split("\0")
    return dict(
        argument.split("=", maxsplit=1)
        for previous, argument in zip(["", *after], after, strict=False)
        if "=" in argument and not argument.startswith("-") and previous not in OPTIONS_WITH_VALUE
    )


def as_given(question: str) -> str:
    """The answer, or what it was before cookiecutter evaluated the braces in it."""
    given = str(typed.get(question, UNRENDERED.get(question, "")))
    is_default = question not in typed and "cookiecutter." in given
    return given if TEMPLATE_BRACES.search(given) and not is_default else ANSWERS[question]


def reader() -> Path | None:
    """Where read_dataset.py is, in the template, which cookiecutter names and cruft does not."""
    given = ANSWERS.get("_repo_dir", "")
    starts = (f"/proc/{os.getppid()}/cwd", os.environ.get("PWD", ""), "..")  # the first on Linux
    folders = [Path(given), *(Path(s, *more) for more in ([], [given]) for s in starts)]
    return next((f / "hooks" for f in folders if (f / "hooks/read_dataset.py").exists()), None)


def read_data():
    """Finds out what the data set is, for post_gen_project.py; says why it cannot be used."""
    folder = reader()
    if folder is None:
        return [f"data {ANSWERS['data']!a}: cannot be read here; run cookiecutter from a clone"]
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    import read_dataset

    folders = [Path(os.environ.get("PWD", "..")), Path("..").resolve()]  # of the user, or output
    try:
        format, path = read_dataset.parse(ANSWERS["data"], folders)
        if not path:
            return []
        found = read_dataset.read(path, format, folders)
    except read_dataset.Unusable as error:
        reason = str(error).removesuffix(".")
        return [f"data {ANSWERS['data']!a}: {reason}; without data of your own, type 'shapes'"]
    Path("dataset.json").write_text(json.dumps(found), encoding="utf-8")
    return []


typed = command_line()
questions = [key for key in ANSWERS if not key.startswith("_")]
problems = []
for key in [key for key in typed if key not in questions]:  # cookiecutter just drops them
    nearest = difflib.get_close_matches(key, questions, n=1, cutoff=0)[0]
    problems.append(f"{key!a} is none of {', '.join(questions)}; type {nearest}=...")
for question in FORMATS:
    answer = as_given(question)
    if reason := why_not(question, answer):
        better = suggestion(question, answer)
        problems.append(f"{question} {answer!a} {reason}; type for example {better!r}")
if not problems and ANSWERS["data"] not in ("shapes", "custom"):
    problems = read_data()
if problems:
    sys.exit("\n".join(["No project was generated:", *problems]))
