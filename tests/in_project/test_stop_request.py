import subprocess
import sys

POOL = """
import multiprocessing
from my_detector.engine.stop_request import StopRequest

request = StopRequest(".")
for _ in range(30):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        result = pool.imap(abs, range(-100, 0))
        next(result)  # and has more to do when it ends
print("ended", request.look())
"""


def test_workers_that_are_forked_can_be_ended():
    """A pool sends them SIGTERM, and waits for them."""
    run = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, timeout=60)
    assert run.stdout == "ended None\n", run.stderr
