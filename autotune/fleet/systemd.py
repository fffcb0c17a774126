"""A systemd unit that runs a study for days: goes on after a crash and a reboot, and ends a trial properly when it is stopped.

Syntax: systemd.syntax(7), systemd.service(5) "Command lines", systemd.unit(5) "Specifiers".
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from autotune.errors import SpecError
from autotune.fleet.manifests import ManifestRequest, named_options
from autotune.fleet.scheduled import has_password
from autotune.spec.load import load_spec
from autotune.spec.model import StudySpec

_OPTIONS = {
    "scope": "user or system; default user",
    "user": "the account of a system unit; needed there",
    "metrics": "[HOST:]PORT of /metrics",
    "environment_file": "a file of NAME=VALUE lines, such as PGPASSWORD=…, that only its owner may read",
}
_STOP_MARGIN_S = 120
"""Beyond a trial's deadline: the trial is stored, the front written, and a database that is busy waited for."""
_EVERY_UNIT = """\
Type=exec
KillMode=mixed
KillSignal=SIGTERM
SuccessExitStatus=130
Restart=on-failure
RestartSec=30
RestartPreventExitStatus=2 3
OOMPolicy=continue
UMask=0077
"""
_NO_GPU = """\
# A study on the CPU starts no privileged helper and needs no device node.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
"""
_SYSTEM = """\
ProtectSystem=full
ProtectControlGroups=yes
ProtectHostname=yes
"""
_LEFT_OUT = """\
# Left out on purpose: PrivateTmp (a device's lock must be every user's), MemoryDenyWriteExecute (engines compile code), and
# for GPUs PrivateDevices, DevicePolicy and ProtectClock (no /dev/nvidia*) and NoNewPrivileges (nvidia-modprobe is setuid).
"""


def manifest(request: ManifestRequest) -> str:
    """The unit, with how it is installed in its first lines. Raises SpecError on what a unit cannot say."""
    options = named_options(request, _OPTIONS)
    scope = options.get("scope", "user")
    if scope not in ("user", "system"):
        raise SpecError(f"--option scope={scope}: allowed: user, system")
    if scope == "system" and "user" not in options:
        raise SpecError("--option user: found nothing; allowed: the account that a system unit runs the study as, user=NAME")
    if scope == "user" and "user" in options:
        raise SpecError("--option user: a user's unit runs as that user; allowed together with scope=system")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", options.get("user", "a")):
        raise SpecError(f"--option user={options['user']}: allowed: the name of an account")
    if request.image is not None:
        raise SpecError("--image: systemd runs the study without a container; allowed with --target kubernetes")
    spec = load_spec(request.study_file)
    return "".join(_sections(request, spec, scope, options))


def _sections(request: ManifestRequest, spec: StudySpec, scope: str, options: Mapping[str, str]) -> Iterator[str]:
    yield _head(request, scope)
    yield f"[Unit]\nDescription=autotune study {_no_specifier(request.study)}\n"
    if scope == "system":
        yield "After=network-online.target\nWants=network-online.target\n"
    yield "StartLimitIntervalSec=1h\nStartLimitBurst=5\n\n[Service]\n"
    if scope == "system":
        yield f"User={options['user']}\n"
    yield f"WorkingDirectory={_path(request.study_file.parent)}\n"
    for name, value in _environment(request, spec).items():
        yield f"Environment={_quoted(f'{name}={value}')}\n"
    if "environment_file" in options:
        yield f"EnvironmentFile={_path(Path(options['environment_file']).absolute())}\n"
    yield f"ExecStart={_command(request, spec, options)}\n"
    yield f"TimeoutStopSec={int(spec.limits.deadline_s) + _STOP_MARGIN_S}\n"
    yield _EVERY_UNIT
    yield _NO_GPU if spec.device == "cpu" else ""
    yield _SYSTEM if scope == "system" else ""
    yield _LEFT_OUT
    yield f"\n[Install]\nWantedBy={'multi-user.target' if scope == 'system' else 'default.target'}\n"


def _head(request: ManifestRequest, scope: str) -> str:
    unit = f"autotune-{request.study}.service"
    if scope == "system":
        return f"# /etc/systemd/system/{unit}; then: systemctl daemon-reload && systemctl enable --now {unit}\n"
    return (
        f"# ~/.config/systemd/user/{unit}; then: systemctl --user daemon-reload && systemctl --user enable --now {unit}\n"
        "# So that it runs before you log in, and after you log out: loginctl enable-linger\n"
    )


def _environment(request: ManifestRequest, spec: StudySpec) -> dict[str, str]:
    found = {"PYTHONUNBUFFERED": "1"}
    found |= {name: os.environ[name] for name in ("AUTOTUNE_CACHE", "AUTOTUNE_LOCKS") if name in os.environ}
    if not request.devices:
        return found
    if len(request.devices) > 1:
        raise SpecError("--device: found several; allowed: one per unit, each written with --device and --out of its own")
    device = request.devices[0]
    if device == spec.device or (device == "cpu" and spec.device == "auto"):
        return found | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    number = re.fullmatch(r"cuda:(\d+)", device)
    if number is None or spec.device not in ("auto", "cuda"):
        raise SpecError(
            f"--device {device}: the study file says device: {spec.device}; allowed: that, or cuda:N with cuda or auto"
        )
    return found | {"CUDA_VISIBLE_DEVICES": number[1]}


def _command(request: ManifestRequest, spec: StudySpec, options: Mapping[str, str]) -> str:
    words = ["-m", "autotune.cli.main", "-v", "start", str(request.study_file)]
    if len(spec.devices or ()) < 2 or request.workers > 1:
        words += ["--workers", str(request.workers)]
    if not (request.storage or spec.storage).startswith("sqlite"):
        words += ["--wait-for-database"]  # at boot it may come up later
    if request.storage is not None:
        words += ["--storage", _without_password(request.storage)]
    if "metrics" in options:
        words += ["--metrics", options["metrics"]]
    # No `$` is expanded in the first word, so none is doubled there.
    return " ".join([_quoted(sys.executable), *(_quoted(w).replace("$", "$$") for w in words)])


def _without_password(url: str) -> str:
    if has_password(url):
        raise SpecError(
            "--storage: the URL holds a password, which everybody could read in the unit; allowed: the URL without it, and "
            "PGPASSWORD=… in a file: --option environment_file=FILE, or the account's ~/.pgpass"
        )
    return url


def _quoted(word: str) -> str:
    """The word in double quotes, every character of it meant as it is."""
    _require_one_line(word)
    return '"' + _no_specifier(word.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _path(path: Path) -> str:
    """A path as the whole value of a setting, where quotes and backslashes are no syntax."""
    text = str(path)
    _require_one_line(text)
    if text != text.strip() or text.endswith("\\"):
        raise SpecError(
            f"{text!r}: a unit's setting cannot begin or end with a blank, nor end with a backslash; move the folder"
        )
    return _no_specifier(text)


def _no_specifier(text: str) -> str:
    return text.replace("%", "%%")


def _require_one_line(text: str) -> None:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise SpecError(f"{text!r}: a unit cannot hold control characters; allowed: a path or option without them")
