"""Writes d2_starter/MANIFEST.json, after a change of the library: uv run tests/make_manifest.py"""

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PROJECT))

from d2_starter.files.integrity import LIBRARY, MANIFEST, hash_files  # noqa: E402

text = json.dumps(hash_files(), indent=1) + "\n"
(LIBRARY / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
