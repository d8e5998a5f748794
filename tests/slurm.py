"""A private Slurm on one machine: a controller and two nodes, in a folder and on free ports."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# A requeued job is held until its credentials have expired: 120 seconds, unless cred_expire is set.
# More CPUs than there are, since nothing is gained by waiting for one. Devices that are everywhere
# stand for GPUs: they are allotted, not used. No cgroups, no accounting: they may not be there.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=100000
GresTypes=gpu
NodeName=DEFAULT CPUs=32 Gres=gpu:4
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}]
PartitionName=main Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n[1-2] PriorityTier=2 PreemptMode=OFF
"""
GPUS = "Name=gpu File=/dev/full,/dev/null,/dev/random,/dev/zero\n"


def what_is_missing() -> str | None:
    """Why there can be no such Slurm on this machine."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if missing:
        return f"no {', '.join(missing)} (apt-get install slurmctld slurmd slurm-client munge)"
    return "slurmd must be started by root" if os.geteuid() else None


class Cluster:
    """A context manager. Calling it runs a command in it, and returns what that prints."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.own = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self.daemons = []

    def __enter__(self):
        (self.folder / "state").mkdir()
        (self.folder / "gres.conf").write_text(GPUS, encoding="utf-8")
        (self.folder / "munge.key").touch(0o600)
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        host = socket.gethostname().partition(".")[0]
        conf = CONF.format(folder=self.folder, host=host, ports=_free_ports())
        (self.folder / "slurm.conf").write_text(conf, encoding="utf-8")
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{key}={self.folder}/munge.{end}" for key, end in files.items()]
        try:
            self._start("munged", "--foreground", "--force", *options)
            self.wait_until((self.folder / "munge.socket").exists)
            self._start("slurmctld", "-D")
            for node in ("n1", "n2"):
                self._start("slurmd", "-D", "-N", node)
            self.wait_until(lambda: self("sinfo", "-h", "-o", "%t%D", check=False) == "idle2\n")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self("scancel", "--user=root", check=False)
        with contextlib.suppress(AssertionError):
            self.wait_until(lambda: not self("squeue", "-h", check=False))
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def __call__(self, *command, check=True, cwd=None, environ=None) -> str:
        process = subprocess.run(
            [str(word) for word in command], cwd=cwd, env=(environ or os.environ) | self.own,
            text=True, capture_output=True,
        )  # fmt: skip
        assert not check or process.returncode == 0, (command, process.stderr)
        return process.stdout

    def submit(self, *arguments, cwd, environ=None) -> str:
        """Runs `sbatch` with the arguments, and returns the number of the job."""
        return self("sbatch", "--parsable", *arguments, cwd=cwd, environ=environ).strip()

    def about(self, job: str, *keys: str) -> list[list[str]]:
        """What `scontrol show job` says, for each job of an array."""
        shown = self("scontrol", "show", "job", job)
        found = [re.findall(rf"\b{key}=(\S+)", shown) for key in keys]
        return [list(values) for values in zip(*found, strict=True)]

    def wait_for(self, job: str, timeout=300):
        """Until it has ended, and with it all jobs of an array."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        self.wait_until(lambda: {s for (s,) in self.about(job, "JobState")} <= ended, timeout)

    def wait_until(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline or any(d.poll() is not None for d in self.daemons):
                logs = [log.read_text()[-3000:] for log in sorted(self.folder.glob("*.log"))]
                raise AssertionError("\n".join(logs))
            time.sleep(0.2)

    def _start(self, *command):
        with (self.folder / f"{command[0]}.log").open("a") as log:
            environ = os.environ | self.own
            self.daemons.append(subprocess.Popen(command, env=environ, stdout=log, stderr=log))


def _free_ports() -> list[int]:
    """Three in a row, for the controller and the nodes."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            ports = []
            for _ in range(3):
                free = stack.enter_context(socket.socket())
                free.bind(("", ports[-1] + 1 if ports else 0))
                ports.append(free.getsockname()[1])
            return ports
