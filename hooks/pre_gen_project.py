"""Refuses answers that cannot become a working project, before the first file is written.

It runs in the new folder, which cookiecutter removes again; an existing folder stays as it was.
Messages are ASCII, because some Windows terminals crash on anything else.
"""

import json
import keyword
import os
import re
import sys
from pathlib import Path

# JSON in raw strings: tojson escapes the quote ', so no answer can end them.
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')  # fmt: skip
UNRENDERED = json.loads(r'''{{ _cookiecutter | default({}) | tojson }}''')  # fmt: skip
BRACES = re.compile(r"[{][%#{]")
NO_DEVICE, DEVICE = r"(?!(?i:con|prn|aux|nul|(com|lpt)\d)([.]|\Z))", "or is a Windows device"
FORMATS = {  # question: (regular expression, the same in words, what is suggested at the least)
    "project_name": (r"\S(.{0,78}\S)?", "1 to 80 characters without white space around them"),
    "project_slug": (NO_DEVICE + "[A-Za-z0-9]([A-Za-z0-9._-]{0,58}[A-Za-z0-9])?",
                     f"1 to 60 of A-Z a-z 0-9 . _ - with a letter or digit at both ends, {DEVICE}"),
    "package_name": (NO_DEVICE + "[a-z][a-z0-9_]{0,39}",
                     f"1 to 40 of a-z 0-9 _ with a letter in front, {DEVICE}"),
    "author": (r"\S(.{0,98}\S)?", "1 to 100 characters without white space around them"),
    "data": (r"\S(.{0,998}\S)?", "1 to 1000 characters without white space around them"),
}  # fmt: skip
NEEDED = """absl absl_py aiohappyeyeballs aiohttp aiosignal antlr4 attr attrs black click
    cloudpickle contourpy cuda cv2 cycler d2_starter dateutil detectron2 filelock fonttools
    frozenlist fsspec functorch fvcore google grpc grpcio hotcoco huggingface_hub hydra hydra_core
    idna iniconfig iopath jinja2 kiwisolver lightning lightning_fabric lightning_utilities lvis
    markdown markupsafe matplotlib mpl_toolkits mpmath multidict networkx ninja numpy nvidia
    omegaconf opencv_python opencv_python_headless packaging pathspec pil pillow pip pkg_resources
    platformdirs pluggy portalocker propcache protobuf pycocotools pygments pylab pyparsing pytest
    python_dateutil pytorch_lightning pyyaml ruff safetensors setuptools shapely six sympy tabulate
    tensorboard termcolor timm torch torchgen torchmetrics torchvision tqdm triton typing_extensions
    tzdata werkzeug wheel yacs yaml yarl""".split()
NEIGHBOURS = """build configs d2_starter data datasets dist docker docs k8s output slurm src tests
    tools plain_train_net train_net lazyconfig_train_net lightning_train_net""".split()
PACKAGES = {"a package that the project needs": NEEDED}
TAKEN = {"project_slug": PACKAGES, "package_name": PACKAGES | {
    "a keyword of Python": keyword.kwlist + keyword.softkwlist,
    "a module of Python's standard library": sys.stdlib_module_names,
    "another file or folder of the project": NEIGHBOURS,
}}  # fmt: skip


def why_not(question: str, answer: str) -> str:
    """Returns the reason to refuse an answer, or an empty string."""
    if BRACES.search(answer):
        return "has template braces, which cookiecutter evaluates"
    if not answer.isprintable():
        return "has characters that cannot be printed"
    if not re.fullmatch(FORMATS[question][0], answer):
        return f"is not {FORMATS[question][1]}"
    name = re.sub("[._-]+", "_", answer.lower())
    return next((f"is {w}" for w, names in TAKEN.get(question, {}).items() if name in names), "")


def suggestion(question: str, answer: str) -> str:
    """Returns what would be accepted, as near to the answer as possible."""
    separator = {"project_name": " ", "author": " ", "project_slug": "-"}.get(question, "_")
    words = re.findall("[A-Za-z0-9]+", answer) or ["my", question.split("_")[0]]
    near, mine = (separator.join(w)[:30].strip(separator) for w in (words, ["my", *words]))
    candidates = ["shapes"] * (question == "data") + [near, near.lower(), mine.lower()]
    return next(text for text in candidates if not why_not(question, text))


def as_given(question: str) -> str:
    """Returns the answer as it was before cookiecutter evaluated the braces in it."""
    given = str(UNRENDERED.get(question, ""))
    return given if BRACES.search(given) and "cookiecutter." not in given else ANSWERS[question]


def read_data() -> list[str]:
    """Writes what the dataset is for post_gen_project.py; returns why it cannot be used."""
    folders = [Path(os.environ.get("PWD", "..")), Path("..").resolve()]  # of the user, or output
    given = ANSWERS.get("_repo_dir", "")  # of the template; cruft does not name it
    places = [Path(given), *(place for f in folders for place in (f, f / given))]
    found = [f for p in places for f in sorted(p.glob("*cookiecutter.project_slug*/d2_starter"))]
    if not found:
        return [f"data {ANSWERS['data']!a}: cannot be read here; run cookiecutter from a clone"]
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(found[0]))
    from formats import Unusable, parse, project, scan  # the library's, of the standard library

    try:
        if parse(ANSWERS["data"], folders)[1]:
            what = scan(ANSWERS["data"], folders)
            new = project.Project.of(".", what)
            new.write()
            print("\n".join(project.describe(what, new)))
    except Unusable as error:
        reason = str(error).removesuffix(".")
        return [f"data {ANSWERS['data']!a}: {reason}; without data of your own, type 'shapes'"]
    return []


problems = []
for question in FORMATS:
    answer = as_given(question)
    if reason := why_not(question, answer):
        better = suggestion(question, answer)
        problems.append(f"{question} {answer!a} {reason}; type for example {better!r}")
if not problems and ANSWERS["data"] not in ("shapes", "custom"):
    problems = read_data()
if problems:
    sys.exit("\n".join(["No project was generated:", *problems]))
