"""What the READMEs show is what is there."""

import re
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


# The lines of the table in docs/trainers.md, and the tests that show them for every trainer.
SHOWN = {
    "trains; the same": "parity: all_trainers_do_the_same same_as_a_minimal_loop_of_detectron2",
    "goes on after": "trainers: killed_and_resumed_run_equals_a_whole_one",
    "takes hyper-parameters": "faults_training: goes_on_with_its_config",
    "`--eval-only`": "parity: weights_can_be_loaded_by_another_trainer; trainers: ema",
    "starts from weights": "matrix: training_starts_from_weights_of_other_classes",
    "epochs, random": "trainers: epochs_become_iterations random_subsets ema; "
    "parity: gradient_accumulation_at_a_scaled_learning_rate",
    "validation loss": "parity: all_trainers_write_the_same_files_and_tags",
    "early stopping": "trainers: training_stops_early_and_says_so "
    "killed_while_it_waits_for_an_improvement",
    "stop file": "trainers: stop_file interrupted_by_the_cluster",
    "asynchronous": "trainers: torchrun_and_asynchronous_evaluation",
    "`torchrun`": "trainers: torchrun_and_asynchronous_evaluation two_processes_stop_together",
}


def test_each_line_of_the_trainers_table_has_a_test():
    page = TEMPLATE / "{{cookiecutter.project_slug}}/docs/trainers.md"
    table = page.read_text(encoding="utf-8").partition("## What each of them does")[2]
    lines = re.findall(r"^\| ([^|\s].*?) \|", table.partition("\n1. ")[0], re.MULTILINE)
    assert len(lines) == len(SHOWN)
    for line, (beginning, tests) in zip(lines, SHOWN.items(), strict=True):
        assert line.startswith(beginning)
        for group in tests.split("; "):
            file, names = group.split(": ")
            text = (TEMPLATE / f"tests/test_{file}.py").read_text(encoding="utf-8")
            for name in names.split():
                assert f"def test_{name}(" in text, name
