import subprocess
import sys

POOL = """
import multiprocessing, sys
from d2_starter import Run

with Run(sys.argv[1]) as run:
    for _ in range(10):
        with multiprocessing.get_context("fork").Pool(4) as pool:
            result = pool.imap(abs, range(-100, 0))
            next(result)  # and has more to do when it ends
    run.poll()
print(run.status)
"""


def test_workers_that_are_forked_can_be_ended(tmp_path):
    """A pool sends them SIGTERM, and waits for them."""
    command = [sys.executable, "-c", POOL, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout == "finished\n", run.stderr
