"""The files for Kubernetes: valid, and what no schema knows."""

import ast
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

NEWEST = kubernetes_validate.latest_version()
FILES = ("volume.yaml", "train.yaml", "evaluate.yaml")
KINDS = ["PersistentVolumeClaim", "Job", "Service", "Job"]  # in all clusters
LABEL = r"[a-z]([a-z0-9-]*[a-z0-9])?"  # of DNS, as a Service asks for: a letter in front
SLUGS = ["my-detector", "My.Project_X", "7--Segments", "X" * 60, "a." * 29 + "b"]
OPTIONS = {"--config-file", "--resume", "--eval-only"}  # of detectron2's parser, in all trainers
OPTIONS |= {"--num-gpus", "--num-machines", "--machine-rank", "--dist-url"}


class Kubernetes:
    def __init__(self, project: Path):
        self.project = project
        self.documents = [
            document
            for name in FILES
            for document in yaml.safe_load_all((project / "k8s" / name).read_text(encoding="utf-8"))
        ]
        (self.claim,) = self.of_kind("PersistentVolumeClaim")
        (self.service,) = self.of_kind("Service")
        self.jobs = self.of_kind("Job")
        self.train, self.evaluate = self.jobs

    def of_kind(self, kind: str) -> list[dict]:
        return [document for document in self.documents if document["kind"] == kind]


def pod_of(job) -> dict:
    return job["spec"]["template"]["spec"]


def container_of(job) -> dict:
    (container,) = pod_of(job)["containers"]
    return container


def command_of(job) -> list[str]:
    return container_of(job)["command"]


def option(job, name: str) -> str:
    command = command_of(job)
    return command[command.index(name) + 1]


@pytest.fixture(scope="module", params=["plain", "train_net", "lazyconfig", "lightning"])
def kubernetes(render, request) -> Kubernetes:
    return Kubernetes(render(trainer=request.param, cluster="kubernetes"))


@pytest.fixture(scope="module", params=SLUGS, ids=lambda slug: slug[:12])
def named(render, request) -> Kubernetes:
    answers = {"project_slug": request.param, "package_name": "my_detector"}
    return Kubernetes(render(**answers, cluster="kubernetes"))


def test_every_document_is_valid(kubernetes):
    assert [document["kind"] for document in kubernetes.documents] == KINDS
    for document in kubernetes.documents:
        kubernetes_validate.validate(document, NEWEST, strict=True)


def test_names_are_names_in_dns(named):
    names = [document["metadata"]["name"] for document in named.documents]
    names += [f"{job['metadata']['name']}-{9999}" for job in named.jobs]  # hostnames of pods
    names += [container_of(job)["name"] for job in named.jobs]
    for name in names:
        assert re.fullmatch(LABEL, name) and len(name) <= 63, name
    for job in named.jobs:
        for label in job["spec"]["template"]["metadata"]["labels"].values():
            assert re.fullmatch(LABEL, label) and len(label) <= 63
        repository = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
        assert re.fullmatch(rf"{repository}:\w+", container_of(job)["image"])


def test_pods_find_pod_0(named):
    """By the name that the Service gives it."""
    service, job = named.service, named.train
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert pod_of(job)["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completionMode"] == "Indexed"
    pod_0 = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert re.fullmatch(rf"tcp://{re.escape(pod_0)}:\d+", option(job, "--dist-url"))
    assert option(job, "--machine-rank") == "$(JOB_COMPLETION_INDEX)"


def test_selectors_do_not_mix_the_pods_up(kubernetes):
    labels = kubernetes.evaluate["spec"]["template"]["metadata"]["labels"]
    assert not kubernetes.service["spec"]["selector"].items() <= labels.items()


def test_numbers_that_belong_together_agree(kubernetes):
    train = kubernetes.train["spec"]
    assert train["completions"] == train["parallelism"]
    assert option(kubernetes.train, "--num-machines") == str(train["completions"])
    gpus = container_of(kubernetes.train)["resources"]["limits"]["nvidia.com/gpu"]
    assert option(kubernetes.train, "--num-gpus") == str(gpus)
    assert container_of(kubernetes.evaluate)["resources"]["limits"]["nvidia.com/gpu"] == 1
    images = {container_of(job)["image"] for job in kubernetes.jobs}
    assert len(images) == 1


def test_volumes_are_there_and_mounted(kubernetes):
    for job in kubernetes.jobs:
        volumes = {volume["name"]: volume for volume in pod_of(job)["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in container_of(job)["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        claim = volumes[mounts["/storage"]]["persistentVolumeClaim"]["claimName"]
        assert claim == kubernetes.claim["metadata"]["name"]
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert volumes[mounts["/tmp"]] == {"name": mounts["/tmp"], "emptyDir": {}}
        environment = {entry["name"]: entry["value"] for entry in container_of(job)["env"]}
        assert environment["DETECTRON2_DATASETS"].startswith("/storage/")
        assert environment["HOME"] in mounts
    assert "ReadWriteMany" in kubernetes.claim["spec"]["accessModes"]


def test_trainer_is_started_as_it_can_be(kubernetes):
    python, script, *arguments = command_of(kubernetes.train)
    assert python == "python"
    assert container_of(kubernetes.train)["workingDir"] == "/app"
    assert (kubernetes.project / script).is_file()
    assert (kubernetes.project / option(kubernetes.train, "--config-file")).is_file()
    assert "--resume" in arguments
    assert {word for word in arguments if word.startswith("--")} <= OPTIONS
    overrides = arguments[arguments.index("--resume") + 1 :]
    assert not [word for word in overrides if word.startswith("-")]
    if script.startswith("lazy"):
        keys = [word.partition("=")[0] for word in overrides]
        assert all("=" in word for word in overrides)
    else:
        keys = overrides[::2]
        assert len(overrides) == 2 * len(keys)
    code = "".join(p.read_text(encoding="utf-8") for p in kubernetes.project.rglob("*.py"))
    for key in keys:
        assert re.search(rf"\b{key.rpartition('.')[2]}\b", code), key


def test_evaluator_is_started_as_it_can_be(kubernetes):
    python, script, *arguments, run = command_of(kubernetes.evaluate)
    assert python == "python"
    assert container_of(kubernetes.evaluate)["workingDir"] == "/app"
    assert run in re.split("[ =]", " ".join(command_of(kubernetes.train)))
    assert "--watch" in arguments
    assert "async_evaluation.command import main" in (kubernetes.project / script).read_text()
    command = kubernetes.project / "d2_starter/async_evaluation/command.py"
    code = ast.parse(command.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    names = {arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)}
    assert {word for word in arguments if word.startswith("-")} <= names


def test_what_only_the_api_server_would_refuse(kubernetes):
    """https://kubernetes.io/docs/concepts/workloads/controllers/job"""
    for job in kubernetes.jobs:
        spec = job["spec"]
        assert pod_of(job)["restartPolicy"] == "Never"  # with a podFailurePolicy
        assert spec["podReplacementPolicy"] == "Failed"  # so, too
        for rule in spec["podFailurePolicy"]["rules"]:
            assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
            codes = rule.get("onExitCodes", {"containerName": container_of(job)["name"]})
            assert codes["containerName"] == container_of(job)["name"]
            assert codes.get("values", []) == sorted(set(codes.get("values", [])) - {0})
            for condition in rule.get("onPodConditions", []):
                assert condition["status"] == "True"  # not the boolean


def test_interruptions_are_not_counted_as_failures(kubernetes):
    for job in kubernetes.jobs:
        disruption, interrupted = job["spec"]["podFailurePolicy"]["rules"]
        assert disruption["action"] == interrupted["action"] == "Ignore"
        assert [c["type"] for c in disruption["onPodConditions"]] == ["DisruptionTarget"]
        assert 143 in interrupted["onExitCodes"]["values"]
        assert 1 not in interrupted["onExitCodes"]["values"]
        assert pod_of(job)["terminationGracePeriodSeconds"] >= 60
    assert "completions" not in kubernetes.evaluate["spec"]


def test_pods_have_no_rights(kubernetes):
    """What Kubernetes calls the restricted standard of pod security, and a read-only root."""
    for job in kubernetes.jobs:
        pod, container = pod_of(job), container_of(job)
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_what_is_to_be_changed_stands_above_what_is_not(kubernetes):
    for name in FILES:
        text = (kubernetes.project / "k8s" / name).read_text(encoding="utf-8")
        assert "CHANGE" in text
        for line in text.splitlines():
            assert len(line) <= 100, line
        assert "CHANGE" not in text.partition("# Nothing below")[2]


@pytest.mark.training
@pytest.mark.parametrize("trainer", ["plain", "lazyconfig"])
def test_both_command_lines(make_project, tmp_path, trainer):
    """One pod of each, with a folder for the volume; `--dist-url` is not used by one process."""
    project = make_project(trainer=trainer, cluster="kubernetes")
    kubernetes = Kubernetes(project.folder)
    train, evaluate = (
        [word.replace("/storage", str(tmp_path)) for word in command_of(job)]
        for job in kubernetes.jobs
    )
    train[train.index("--machine-rank") + 1] = "0"
    short = project.command("SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 2, "TEST.NUM_PICTURES", 0)
    project.run(*train, *short[1:])
    project.run(*evaluate)
    results = (tmp_path / "output/smoke").glob("metrics_*.json")
    assert sorted(path.name for path in results) == ["metrics_0000001.json", "metrics_0000003.json"]
