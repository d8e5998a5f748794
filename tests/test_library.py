"""The library's own tests, in the environment of a project: each file of tests/library is one here.

It has the packages that are optional in a project, too.

To run some of them by themselves: tests/library/pytest.ini says how.
"""

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

LIBRARY = Path(__file__).parent / "library"


OPTIONAL = ["onnx>=1.19", "onnxruntime>=1.22"]


@pytest.fixture(scope="module")
def library(projects):
    """A project with the packages that are optional, too."""
    project = projects("lightning")
    command = ["uv", "pip", "install", "-q", "--python", str(project.environment), *OPTIONAL]
    subprocess.run(command, check=True)
    return project


@pytest.mark.parametrize("file", sorted(path.name for path in LIBRARY.glob("test_*.py")))
def test_library(library, file):
    (main,) = library.environment.glob("lib/python*/site-packages/pytest/__main__.py")
    process = library.server.start(library, [str(main), "-q", "--tb=short", str(LIBRARY / file)])
    status = process.wait(1200)
    if status:
        pytest.fail(f"{file}:\n{process.output()[-20000:]}", pytrace=False)
    print(process.output().splitlines()[-1])
