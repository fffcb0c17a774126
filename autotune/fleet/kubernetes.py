"""The target `kubernetes`: an Indexed Job with one pod per device, or a JobSet of such Jobs. Kubernetes 1.31 or later.

The same command runs in every pod. Which pod measures what is between the workers and their database; the Job only starts them
again. Nothing secret is in the manifest: the database's URL comes from a Secret that the header says how to make.
"""

from __future__ import annotations

import re
from typing import Any

from autotune.errors import SpecError
from autotune.fingerprint import digest_of
from autotune.fleet.manifests import ManifestRequest, named_options
from autotune.fleet.scheduled import (
    STORAGE_FROM_ENVIRONMENT,
    STORAGE_VARIABLE,
    WorkerGroup,
    shared_storage,
    worker_groups,
)
from autotune.spec.load import load_spec

OPTIONS = {
    "kind": "Job or JobSet; default Job",
    "namespace": "where the objects are made; default: kubectl's",
    "claim": "the PersistentVolumeClaim with the study's folder; default STUDY-files",
    "secret": "the Secret whose key url holds the database's URL; default STUDY-storage",
    "gpu-resource": "what the cluster calls a GPU; default nvidia.com/gpu",
    "gpu-product": "value of the node label nvidia.com/gpu.product, so that all workers get one model",
    "cpu": "CPUs of a pod, whole ones; default 4",
    "memory": "memory of a pod; default 16Gi",
    "cache-claim": "a PersistentVolumeClaim for cache and journal, a folder for each worker; default: they go with the pod",
    "scratch": "size of the pod's cache of variants and engines where no claim holds it; default 50Gi",
    "grace_s": "seconds that a trial under way may take to end when its pod must go; default 300",
}
_TERMINATION_S = 60
"""Left of the grace period after the second SIGTERM, in which the trial's candidate is put back."""
_RESTARTS = 5
_USER = 10001
_STUDY, _CACHE = "/study", "/cache"
_FINAL = [2, 3, 130]
"""Exit codes that another pod would only repeat: the input, the machine, stopped by somebody."""
_INDEX = "WORKER_INDEX"
_INDEX_OF_JOB = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def manifest(request: ManifestRequest) -> str:
    """The objects as YAML, behind a header that says what must be there first. Raises SpecError."""
    import yaml

    spec = load_spec(request.study_file)
    chosen = _checked(named_options(request, OPTIONS))
    if not request.image:
        raise SpecError("--target kubernetes needs --image, a container image with autotune and the study's engines installed")
    if "cache-claim" in chosen and spec.cache.folder is not None:
        found = f"{spec.cache.folder}; then --option cache-claim would hold nothing"
        raise SpecError([spec.problem("cache", found, "no folder, so that cache and journal lie in the claim")])
    name = dns_name(request.study)
    groups = worker_groups(request, spec)
    url = shared_storage(request, spec, groups)
    jobs = {group.kind: _job_spec(request, name, group, url, chosen) for group in groups}
    if chosen["kind"] == "JobSet":
        objects = [_job_set(name, jobs, chosen)]
    else:
        names = {kind: name if len(jobs) == 1 else f"{name[:50]}-{kind}" for kind in jobs}
        objects = [_object("batch/v1", "Job", names[kind], job, chosen) for kind, job in jobs.items()]
    return _header(request, name, chosen, url) + yaml.safe_dump_all(objects, sort_keys=False, width=120, allow_unicode=True)


def dns_name(study: str) -> str:
    """The study's name as an RFC 1123 label that leaves room for suffixes; one that had to be changed ends in a digest."""
    label = re.sub(r"[^a-z0-9-]+", "-", study.lower()).strip("-")[:40].strip("-")
    return label if label == study else f"{label}-{digest_of(study)[:6]}"


_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_FORMS = {
    "kind": re.compile(r"^(Job|JobSet)\Z"),
    "namespace": _LABEL,
    "claim": re.compile(r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?\Z"),
    "secret": re.compile(r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?\Z"),
    "cache-claim": re.compile(r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?\Z"),
    "gpu-resource": re.compile(r"^[a-z0-9.-]+/[A-Za-z0-9._-]+\Z"),
    "gpu-product": re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z"),
    "cpu": re.compile(r"^[1-9]\d{0,3}\Z"),
    "memory": re.compile(r"^[1-9]\d*(Ki|Mi|Gi|Ti|k|M|G|T)?\Z"),
    "scratch": re.compile(r"^[1-9]\d*(Ki|Mi|Gi|Ti|k|M|G|T)?\Z"),
    "grace_s": re.compile(r"^[1-9]\d{0,5}\Z"),
}


def _checked(options: dict[str, str]) -> dict[str, str]:
    for name, value in options.items():
        if not _FORMS[name].match(value):
            raise SpecError(f"--option {name}={value}: allowed: text of the form {_FORMS[name].pattern}")
    if "scratch" in options and "cache-claim" in options:
        raise SpecError("--option scratch: allowed without cache-claim=…, whose volume has a size of its own")
    defaults = {
        "kind": "Job",
        "gpu-resource": "nvidia.com/gpu",
        "cpu": "4",
        "memory": "16Gi",
        "scratch": "50Gi",
        "grace_s": "300",
    }
    return defaults | options


def _object(version: str, kind: str, name: str, spec: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": _labels(name)}
    if "namespace" in chosen:
        metadata["namespace"] = chosen["namespace"]
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "autotune", "app.kubernetes.io/instance": name}


def _job_set(name: str, jobs: dict[str, dict[str, Any]], chosen: dict[str, str]) -> dict[str, Any]:
    replicated = [{"name": kind, "replicas": 1, "template": {"spec": job}} for kind, job in jobs.items()]
    return _object("jobset.x-k8s.io/v1alpha2", "JobSet", name, {"replicatedJobs": replicated}, chosen)


def _job_spec(request: ManifestRequest, name: str, group: WorkerGroup, url: str, chosen: dict[str, str]) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "completions": group.n_workers,
        "parallelism": group.n_workers,
        "backoffLimitPerIndex": _RESTARTS,
        # A node that is drained or taken away is nobody's failure, although its worker leaves with 130 as well: the rule that
        # fits first counts. A pod that takes the place of one that `autotune stop` ended would know nothing of the stop.
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailIndex", "onExitCodes": {"containerName": "worker", "operator": "In", "values": _FINAL}},
            ]
        },
        "ttlSecondsAfterFinished": 7 * 24 * 3600,
        "template": {"metadata": {"labels": _labels(name)}, "spec": _pod_spec(request, name, group, url, chosen)},
    }


def _pod_spec(request: ManifestRequest, name: str, group: WorkerGroup, url: str, chosen: dict[str, str]) -> dict[str, Any]:
    grace_s = int(chosen["grace_s"])
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace_s + _TERMINATION_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(request, name, group, url, chosen)],
        "volumes": [
            {"name": "study", "persistentVolumeClaim": {"claimName": chosen.get("claim", f"{name}-files")}},
            {"name": "cache", **_cache_volume(chosen)},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }
    if group.needs_gpu and "gpu-product" in chosen:
        spec["nodeSelector"] = {"nvidia.com/gpu.product": chosen["gpu-product"]}
    if not group.needs_gpu:
        # Pods do not see each other's locks: two on one host would measure on the same memory and caches at once.
        term = {"labelSelector": {"matchLabels": _labels(name)}, "topologyKey": "kubernetes.io/hostname"}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return spec


def _cache_volume(chosen: dict[str, str]) -> dict[str, Any]:
    if "cache-claim" in chosen:
        return {"persistentVolumeClaim": {"claimName": chosen["cache-claim"]}}
    return {"emptyDir": {"sizeLimit": chosen["scratch"]}}


def _container(request: ManifestRequest, name: str, group: WorkerGroup, url: str, chosen: dict[str, str]) -> dict[str, Any]:
    sqlite = url.startswith("sqlite")
    environment: list[dict[str, Any]] = [
        {"name": "AUTOTUNE_CACHE", "value": _CACHE},
        {"name": "XDG_RUNTIME_DIR", "value": "/tmp"},
        {"name": "HOME", "value": "/tmp"},
    ]
    cache: dict[str, Any] = {"name": "cache", "mountPath": _CACHE}
    if "cache-claim" in chosen:
        # The pod that takes a worker's place has its index, and finds its journal there. Nobody else writes to the folder,
        # because locks of files may hold within a host only.
        environment.append({"name": _INDEX, "valueFrom": {"fieldRef": {"fieldPath": _INDEX_OF_JOB}}})
        cache["subPathExpr"] = f"{name}/{group.kind}-$({_INDEX})"
    words = ["autotune", "worker", f"{_STUDY}/{request.study_file.name}", "--device", group.device]
    if not sqlite:
        key = {"name": chosen.get("secret", f"{name}-storage"), "key": "url"}
        environment.append({"name": STORAGE_VARIABLE, "valueFrom": {"secretKeyRef": key}})
        words += STORAGE_FROM_ENVIRONMENT
    # Requests equal to limits make the pod Guaranteed: its CPUs are its own, and the same number for every worker.
    resources = {"cpu": chosen["cpu"], "memory": chosen["memory"]}
    if group.needs_gpu:
        resources[chosen["gpu-resource"]] = "1"
    # Kubernetes signals once; a worker ends after its trial at the first SIGTERM, and puts the trial back at the second.
    hook = {"exec": {"command": ["/bin/sh", "-c", f"kill -TERM 1; sleep {chosen['grace_s']}"]}}
    return {
        "name": "worker",
        "image": request.image,
        "command": words,
        "env": environment,
        "resources": {"requests": resources, "limits": dict(resources)},
        "lifecycle": {"preStop": hook},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            # Written to only where the database is a file in it.
            {"name": "study", "mountPath": _STUDY, **({} if sqlite else {"readOnly": True})},
            cache,
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _header(request: ManifestRequest, name: str, chosen: dict[str, str], url: str) -> str:
    claim, secret = chosen.get("claim", f"{name}-files"), chosen.get("secret", f"{name}-storage")
    lines = [
        f"The workers of the study {request.study}, one pod per device. Before `kubectl apply -f`, in the same namespace:",
        f"1. A PersistentVolumeClaim {claim} with {request.study_file.name}, and the model and data that it names beside it,",
        f"   which user {_USER} may read. Several nodes mount it: ReadOnlyMany or ReadWriteMany.",
    ]
    n = 1
    if not url.startswith("sqlite"):
        n += 1
        lines += [
            f"{n}. The database's URL, in a file that only you can read, as a Secret:",
            f"   kubectl create secret generic {secret} --from-file=url=FILE",
        ]
    if "cache-claim" in chosen:
        lines += [
            f"{n + 1}. A PersistentVolumeClaim {chosen['cache-claim']} that user {_USER} may write to, for several nodes",
            "   ReadWriteMany. It holds each worker's cache, and what it measured while the database was away, which the pod",
            "   that takes its place stores.",
        ]
    else:
        lines += [
            "Variants and engines are cached in the pod and go with it; so does what it measured while the database was away,",
            "which is then measured again. -o cache-claim=NAME keeps both.",
        ]
    lines += [
        "`artifacts:` in the study file shares variants and engines between pods.",
        "After `autotune stop` the Job has failed, by exit code 130; to go on, delete it and apply this file again.",
        "A worker whose device is of another kind than the study's fails its index with exit code 2; see its log.",
    ]
    if any(not line.isprintable() for line in lines):
        raise SpecError(f"the name of the study file, {request.study_file.name!r}, has characters that no manifest may hold")
    return "".join(f"# {line}\n" for line in lines)
