import gc
import runpy
from pathlib import Path


def test_a_script_that_is_imported_leaves_garbage_collection_on():
    """Which it turns off for its imports."""
    (script,) = Path().glob("*train_net.py")
    assert "gc.disable()" in script.read_text(encoding="utf-8")
    runpy.run_path(str(script))
    assert gc.isenabled()
