"""Manifests for Kubernetes and Slurm: what they start is one worker per device, and they hold no secret."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from assets import fake_study as fake

from autotune.errors import SpecError
from autotune.fleet import kubernetes, slurm
from autotune.fleet.manifests import ManifestRequest

UNNAMED = ("cache: cache\n", "")
URL = "postgresql+psycopg://me:hunter2@db/x"


def request(folder: Path, *changes: tuple[str, str], **given: Any) -> ManifestRequest:
    file = fake.write_study(folder, ("engines: [fake]\n", ""), *changes)
    values: dict[str, Any] = {
        "study": "Fake Net_v2",
        "study_file": file,
        "storage": URL,
        "devices": ("cuda:0",),
        "image": "me/at:1",
    }
    return ManifestRequest(**(values | given))


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def test_a_pod_per_gpu_and_no_password(tmp_path: Path) -> None:
    """An Indexed Job with one GPU for each of eight pods, that runs as nobody in particular and takes its URL from a Secret."""
    text = kubernetes.manifest(request(tmp_path, workers=8))
    (job,) = yaml.safe_load_all(text)
    assert (job["kind"], job["spec"]["completionMode"], job["spec"]["completions"]) == ("Job", "Indexed", 8)
    (worker,) = pod(job)["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["command"][:3] == ["autotune", "worker", "/study/study.yaml"] and "cuda:0" in worker["command"]
    assert pod(job)["securityContext"]["runAsNonRoot"] and worker["securityContext"]["readOnlyRootFilesystem"]
    assert "hunter2" not in text and "secretKeyRef" in text
    # The second SIGTERM, from the kubelet, comes after the hook and leaves time to put the trial back.
    assert (
        pod(job)["terminationGracePeriodSeconds"] == 360 and "sleep 300" in worker["lifecycle"]["preStop"]["exec"]["command"][2]
    )


def test_names_are_labels(tmp_path: Path) -> None:
    """A study's name becomes an RFC 1123 label, and two names that would become one differ."""
    (job,) = yaml.safe_load_all(kubernetes.manifest(request(tmp_path)))
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert kubernetes.dns_name("net") == "net"
    assert kubernetes.dns_name("Net") != kubernetes.dns_name("NET") != "net"
    assert len(kubernetes.dns_name("x" * 100)) <= 50


@pytest.mark.parametrize("url", ["postgresql://me@h/db?password=hunter2", "postgresql://me:a/hunter2@h/db"])
def test_a_script_holds_no_password_in_any_form(url: str, tmp_path: Path) -> None:
    """Scripts and the command lines of tasks are read by many."""
    assert "hunter2" not in slurm.manifest(request(tmp_path, image=None, storage=url))


def test_a_name_cannot_write_a_manifest(tmp_path: Path) -> None:
    """A line end in the file's name would end the comment that it stands in."""
    asked = request(tmp_path)
    evil = asked.study_file.rename(tmp_path / "a\nkind: Evil\n#.yaml")
    with pytest.raises(SpecError, match="characters that no manifest may hold"):
        kubernetes.manifest(replace(asked, study_file=evil))
    with pytest.raises(SpecError):
        kubernetes.manifest(replace(asked, options=("claim=abc\n",)))


def test_who_was_stopped_is_not_started_again(tmp_path: Path) -> None:
    """`autotune stop` makes a worker leave with 130, and so does a drained node, whose pod another takes the place of."""
    (job,) = yaml.safe_load_all(kubernetes.manifest(request(tmp_path)))
    drained, final = job["spec"]["podFailurePolicy"]["rules"]  # the first that fits counts
    assert drained["action"] == "Ignore" and drained["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert final["action"] == "FailIndex" and set(final["onExitCodes"]["values"]) == {2, 3, 130}


def test_a_claim_keeps_the_journal_of_each_worker(tmp_path: Path) -> None:
    """The pod that takes a worker's place mounts the same folder, and no other worker does; else all goes with the pod."""
    text = kubernetes.manifest(request(tmp_path))
    assert "emptyDir" in volume(next(yaml.safe_load_all(text))) and "measured again" in text
    several = ("seed: 1", "seed: 1\ndevice_kinds: several")
    asked = request(tmp_path, several, UNNAMED, devices=("cpu", "cuda:0", "cuda:1"), options=("cache-claim=kept",))
    folders = set()
    for job in yaml.safe_load_all(kubernetes.manifest(asked)):
        assert volume(job) == {"name": "cache", "persistentVolumeClaim": {"claimName": "kept"}}
        (worker,) = pod(job)["containers"]
        [mount] = [m for m in worker["volumeMounts"] if m["name"] == "cache"]
        [number] = [e for e in worker["env"] if f"$({e['name']})" in mount["subPathExpr"]]
        assert "job-completion-index" in number["valueFrom"]["fieldRef"]["fieldPath"]
        assert {"name": "AUTOTUNE_CACHE", "value": mount["mountPath"]} in worker["env"]
        folders.add(mount["subPathExpr"])
    assert len(folders) == 2
    with pytest.raises(SpecError, match="allowed without cache-claim"):
        kubernetes.manifest(replace(asked, options=("cache-claim=kept", "scratch=1Gi")))
    with pytest.raises(SpecError, match="would hold nothing"):  # the study file names another place
        kubernetes.manifest(request(tmp_path, options=("cache-claim=kept",)))


def volume(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(v for v in pod(job)["volumes"] if v["name"] == "cache")
    return found


def test_pods_on_cpus_keep_apart(tmp_path: Path) -> None:
    """Without a GPU the host is the device: two pods never share one."""
    (job,) = yaml.safe_load_all(kubernetes.manifest(request(tmp_path, devices=("cpu",), workers=2)))
    assert "nvidia.com/gpu" not in str(job)
    assert pod(job)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]


def test_several_kinds_are_several_jobs(tmp_path: Path) -> None:
    """A study over several kinds has a Job for each, or one JobSet; one over one kind is refused."""
    several = ("seed: 1", "seed: 1\ndevice_kinds: several")
    both = request(tmp_path, several, devices=("cpu", "cuda:0", "cuda:1"))
    jobs = list(yaml.safe_load_all(kubernetes.manifest(both)))
    assert [j["spec"]["completions"] for j in jobs] == [1, 2]
    assert len({j["metadata"]["name"] for j in jobs}) == 2
    (made,) = yaml.safe_load_all(
        kubernetes.manifest(request(tmp_path, several, devices=("cpu", "cuda:0"), options=("kind=JobSet",)))
    )
    assert made["kind"] == "JobSet" and [r["name"] for r in made["spec"]["replicatedJobs"]] == ["cpu", "gpu"]
    with pytest.raises(SpecError, match="device_kinds: several"):
        kubernetes.manifest(request(tmp_path, devices=("cpu", "cuda:0")))


@pytest.mark.parametrize("target", [kubernetes, slurm])
def test_sqlite_is_for_one(target: Any, tmp_path: Path) -> None:
    """Two workers on hosts that a scheduler chooses cannot share a file; one can have it."""
    with pytest.raises(SpecError, match="postgresql"):
        target.manifest(request(tmp_path, storage=None, workers=2))
    assert "sqlite" in target.manifest(request(tmp_path, storage=None)) or target is kubernetes


@pytest.mark.parametrize(
    ("target", "option"),
    [(kubernetes, "cpu=four"), (kubernetes, "nonsense=1"), (slurm, "partition=a b"), (slurm, "time=x\n#SBATCH --x")],
)
def test_options_are_checked(target: Any, option: str, tmp_path: Path) -> None:
    """An option that the scheduler would misread is refused with what is allowed."""
    with pytest.raises(SpecError, match="allowed"):
        target.manifest(request(tmp_path, options=(option,)))


def test_kubernetes_knows_every_field(tmp_path: Path) -> None:
    """Each key is one that the Kubernetes API has there: the client's models are generated from its OpenAPI schema."""
    models = pytest.importorskip("kubernetes.client.models", reason="pip install kubernetes")
    several = ("seed: 1", "seed: 1\ndevice_kinds: several")
    text = kubernetes.manifest(
        request(
            tmp_path,
            several,
            UNNAMED,
            devices=("cpu", "cuda:0"),
            options=("gpu-product=Tesla-V100", "namespace=ml", "cache-claim=a"),
        )
    )
    wrong: list[str] = []
    for job in yaml.safe_load_all(text):
        _check(job, "V1Job", models, "Job", wrong)
    assert wrong == []


def _check(value: Any, kind: str, models: Any, where: str, wrong: list[str]) -> None:
    if (inner := re.fullmatch(r"list\[(.+)\]", kind)) is not None:
        for i, item in enumerate(value):
            _check(item, inner.group(1), models, f"{where}[{i}]", wrong)
    elif kind.startswith("dict("):
        wrong += [] if isinstance(value, dict) else [f"{where}: a mapping"]
    elif hasattr(models, kind):
        model = getattr(models, kind)
        names = {json: python for python, json in model.attribute_map.items()}
        for key, item in value.items():
            if key not in names:
                wrong.append(f"{where}.{key}")
            else:
                _check(item, model.openapi_types[names[key]], models, f"{where}.{key}", wrong)
    else:
        expected = {"str": str, "int": int, "bool": bool}.get(kind)
        if expected is not None and type(value) is not expected:
            wrong.append(f"{where}: {value!r} is no {kind}")


def test_a_script_per_gpu(tmp_path: Path) -> None:
    """An array task per GPU, shell that bash takes, paths quoted, and the password nowhere."""
    text = slurm.manifest(request(tmp_path / "a b$(x)", workers=4, options=("gpu=v100", "time=24:00:00")))
    assert "#SBATCH --array=0-3" in text and "#SBATCH --gres=gpu:v100:1" in text and "#SBATCH --requeue" in text
    assert "hunter2" not in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""


@pytest.mark.parametrize(("code", "requeued"), [(130, True), (0, False)])
def test_a_task_at_its_time_limit_queues_itself_again(code: int, requeued: bool, tmp_path: Path) -> None:
    """SIGTERM reaches the worker once; stopped, the task goes back into the queue, and done it does not."""
    folder = tmp_path / "a b"
    text = slurm.manifest(request(folder, storage="postgresql+psycopg://me@db/x"))
    srun = f'echo "$@" > "{tmp_path}/words"; trap "exit {code}" TERM; kill -TERM $PPID; while :; do sleep 0.05; done'
    submitted(text, tmp_path, srun=srun, scontrol=f'echo "$@" > "{tmp_path}/requeued"')
    assert (tmp_path / "requeued").exists() is requeued
    assert str(folder / "study.yaml") in (tmp_path / "words").read_text()


def submitted(text: str, folder: Path, **tools: str) -> subprocess.CompletedProcess[str]:
    """What bash makes of the script where the commands are these, as on a node of Slurm's."""
    there = folder / "bin"
    there.mkdir()
    for name, body in tools.items():
        (there / name).write_text(f"#!/bin/bash\n{body}\n")
        (there / name).chmod(stat.S_IRWXU)
    environment = os.environ | {"PATH": f"{there}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    return subprocess.run(["bash"], input=text, text=True, env=environment, timeout=20, check=False, capture_output=True)


@pytest.mark.parametrize(
    ("codes", "n_starts", "left_with"),
    [
        ([137, 4, 0], 3, 0),  # killed, then without its database, then done
        ([137] * 9, 6, 137),
        ([1, 2], 2, 2),
        ([3], 1, 3),
        ([130], 1, 130),  # by `autotune stop`
    ],
)
def test_a_task_starts_a_killed_worker_again(codes: list[int], n_starts: int, left_with: int, tmp_path: Path) -> None:
    """Five times at most, with a pause before each; not where another start would only repeat what the worker said."""
    (tmp_path / "codes").write_text("\n".join(map(str, codes)) + "\n")
    srun = f'cd "{tmp_path}"; echo x >> starts; exit "$(sed -n "$(wc -l < starts)p" codes)"'
    text = slurm.manifest(request(tmp_path / "study"))
    done = submitted(
        f"AUTOTUNE_STORAGE=x\n{text}", tmp_path, srun=srun, sleep=f'echo "$1" >> "{tmp_path}/pauses"',
        scontrol=f'echo "$@" > "{tmp_path}/requeued"',
    )  # fmt: skip
    assert (done.returncode, (tmp_path / "starts").read_text().count("x")) == (left_with, n_starts), done.stderr
    pauses = (tmp_path / "pauses").read_text().split() if n_starts > 1 else []
    assert pauses == ["10"] * (n_starts - 1) and not (tmp_path / "requeued").exists()


def test_a_task_whose_time_is_up_between_two_starts_queues_itself_again(tmp_path: Path) -> None:
    """The signal ends the pause, and no worker is begun for the seconds that are left."""
    text = slurm.manifest(request(tmp_path / "study", storage="postgresql+psycopg://me@db/x"))
    submitted(
        text, tmp_path, srun=f'echo x >> "{tmp_path}/starts"; exit 137', sleep='kill -TERM $PPID; exec /bin/sleep 1',
        scontrol=f'echo "$@" > "{tmp_path}/requeued"',
    )  # fmt: skip
    assert (tmp_path / "starts").read_text() == "x\n" and (tmp_path / "requeued").read_text() == "requeue 7_0\n"
