"""Runs the pods of k8s/ by podman, which needs no cluster and no network.

    KUBERNETES_IMAGE=my-detector:latest uv run pytest tests/test_kubernetes_pod.py -n 0

The image holds the project of the default answers, as k8s/train.yaml asks for. The pods are as the
files have them: another user than root, nothing to write to but the volumes. What podman lacks is
done instead of Kubernetes: a pod is made from its Job's template, the volume is given to the user
(fsGroup), and the pod is told its index. /dev/shm is podman's own, for its emptyDir would belong
to root. There are no GPUs, and no memory is asked for.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

IMAGE = os.environ.get("KUBERNETES_IMAGE")
SHORT = "SOLVER.MAX_ITER 6 SOLVER.STEPS (5,) TEST.EVAL_PERIOD 2 TEST.NUM_PICTURES 0".split()

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="KUBERNETES_IMAGE names no image: no pod was run"),
    pytest.mark.skipif(not shutil.which("podman"), reason="podman is missing: no pod was run"),
]


def podman(*arguments, **options) -> str:
    command = ["podman", *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, **options)
    assert process.returncode == 0, f"{command}: {process.stderr}"
    return process.stdout.strip()


class Pod:
    """The pod of a Job, on the volume `storage`."""

    def __init__(self, file: Path, *more: str):
        (job,) = [doc for doc in yaml.safe_load_all(file.read_text()) if doc["kind"] == "Job"]
        self.name = job["metadata"]["name"]
        pod = {"apiVersion": "v1", "kind": "Pod"} | job["spec"]["template"]
        pod["metadata"]["name"] = self.name
        (container,) = pod["spec"]["containers"]
        container["image"] = IMAGE
        container["imagePullPolicy"] = "Never"
        command = [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in container["command"]]
        container["command"] = [*command, *more]
        container["resources"] = {}
        for mounts in (container["volumeMounts"], pod["spec"]["volumes"]):
            mounts[:] = [mount for mount in mounts if mount["name"] != "shm"]
        self.container = f"{self.name}-{container['name']}"
        podman("play", "kube", "--network=none", "--replace", "-", input=yaml.safe_dump(pod))

    def log(self) -> str:
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run(["podman", "logs", self.container], **both).stdout

    def is_running(self) -> bool:
        return podman("inspect", "--format={{.State.Running}}", self.container) == "true"

    def wait(self) -> int:
        """Its exit status."""
        return int(podman("wait", self.container))


@pytest.fixture
def project(render) -> Path:
    return render(cluster="kubernetes")


@pytest.fixture
def storage(project):
    """The volume that the claim stands for."""
    claim = yaml.safe_load((project / "k8s/volume.yaml").read_text())["metadata"]["name"]
    podman("volume", "create", claim)
    give = ["chown", "1000:1000", "/storage"]
    podman("run", "--rm", "--network=none", "--user=0", f"--volume={claim}:/storage", IMAGE, *give)
    yield Path(podman("volume", "inspect", "--format={{.Mountpoint}}", claim))
    for name in (project / "k8s").glob("[te]*.yaml"):
        (job, *_) = yaml.safe_load_all(name.read_text())
        podman("pod", "rm", "--force", "--ignore", job["metadata"]["name"])
    podman("volume", "rm", claim)


def test_trainer_and_evaluator(project, storage):
    trainer = Pod(project / "k8s/train.yaml", *SHORT)
    assert trainer.wait() == 0, trainer.log()
    run = storage / "output/smoke"
    assert json.loads((run / "ended.json").read_text())["status"] == "finished"

    evaluator = Pod(project / "k8s/evaluate.yaml")
    while not (claims := list(run.glob("evaluation/claim_*"))):
        assert evaluator.is_running(), evaluator.log()
        time.sleep(0.1)
    podman("stop", "--time=60", evaluator.container)
    assert evaluator.wait() == 143, evaluator.log()
    assert [json.loads(claim.read_text())["status"] for claim in claims] == ["released"]
    assert not list(run.glob("metrics_*.json"))

    evaluator = Pod(project / "k8s/evaluate.yaml")
    assert evaluator.wait() == 0, evaluator.log()
    results = sorted(path.name for path in run.glob("metrics_*.json"))
    assert results == [f"metrics_000000{iteration}.json" for iteration in (1, 3, 5)]
