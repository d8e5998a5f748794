import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


@pytest.fixture(scope="session", autouse=True)
def few_shapes(tmp_path_factory):
    """The generated shapes, few of them, in a folder of the tests' own; and a cache there."""
    from d2_starter.data import shapes

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(shapes, "SPLITS", {"train": 24, "val": 8})
        shapes.register_shapes()
        yield shapes.make_shapes()
