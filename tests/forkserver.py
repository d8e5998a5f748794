"""Runs scripts in forks of a process that has imported the modules which it was given.

Importing torch and detectron2 takes most of the time of a short training. Each line of the standard
input is a JSON list: folder, environment variables, output file, and the script with its arguments.
The process that runs it is answered with its id; its exit status goes to `<output file>.status`.
"""

import importlib
import json
import multiprocessing.process
import os
import runpy
import signal
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in iter(sys.stdin.readline, ""):
    folder, environ, output, command = json.loads(line)
    if os.fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job in the background
    process = os.fork()
    if process:
        print(process, flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with open(f"{output}.tmp", "w", encoding="utf-8") as file:
            file.write(str(status))
        os.replace(f"{output}.tmp", f"{output}.status")
        os._exit(0)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    sys.argv, sys.path[0] = command, folder
    multiprocessing.process.ORIGINAL_DIR = folder  # where its own processes find the script
    runpy.run_path(command[0], run_name="__main__")
    break
