"""What the READMEs show is what is there."""

import subprocess
import sys
from pathlib import Path

TEMPLATE = Path(__file__).parents[1]
sys.path.insert(0, str(TEMPLATE / "docs"))

from update import updated  # noqa: E402


def test_readmes_are_up_to_date():
    check = [sys.executable, "docs/update.py", "--check"]
    run = subprocess.run(check, cwd=TEMPLATE, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_block_that_was_edited_is_seen(tmp_path):
    text = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    assert "  bbox/AP50 " in text
    readme = tmp_path / "README.md"
    readme.write_text(text.replace("  bbox/AP50 ", "  bbox/AP51 "), encoding="utf-8")
    assert updated(readme) == text
