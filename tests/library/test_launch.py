"""Processes that the launcher starts."""

import subprocess
import sys

SCRIPT = """
import multiprocessing
from types import SimpleNamespace
from d2_starter.run.launch import launch

def main(args):
    print("METHOD", multiprocessing.get_start_method())

def load_experiment(file, overrides):
    return SimpleNamespace(check_processes=lambda number: None, output_dir="none", weights="")

if __name__ == "__main__":
    print("METHOD", multiprocessing.get_context().get_start_method())
    launch(main, load_experiment)
"""


def test_workers_are_started_as_in_a_single_process(tmp_path):
    """Spawned, each would import torch again, in each evaluation."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, "--config-file", "any.yaml", "--num-gpus", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    methods = [line for line in done.stdout.splitlines() if line.startswith("METHOD")]
    assert len(methods) == 3 and len(set(methods)) == 1, done.stdout + done.stderr
