"""The systemd unit: what it says is what was meant, whatever the paths look like."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from assets import fake_study as fake

from autotune.errors import SpecError
from autotune.fleet.manifests import ManifestRequest, make_manifest


def request(folder: Path, **changes: object) -> ManifestRequest:
    folder.mkdir(parents=True, exist_ok=True)
    return ManifestRequest(study="fake", study_file=fake.write_study(folder), **changes)  # type: ignore[arg-type]


def test_a_study_is_begun_again_unless_its_input_is_wrong(tmp_path: Path) -> None:
    """SIGTERM with time for the trial under way; a wrong file or a missing device would only fail again."""
    unit = make_manifest("systemd", request(tmp_path))
    for line in ("KillSignal=SIGTERM", "Restart=on-failure", "RestartPreventExitStatus=2 3", "TimeoutStopSec=180"):
        assert line in unit.splitlines()
    assert f"WorkingDirectory={tmp_path}" in unit


def test_signs_of_systemd_in_paths_are_escaped(tmp_path: Path) -> None:
    """Percent begins a specifier and dollar a variable there."""
    unit = make_manifest("systemd", request(tmp_path / "50% of $HOME"))
    assert "50%% of $HOME" in unit and "50%% of $$HOME" in next(x for x in unit.splitlines() if x.startswith("ExecStart="))


def test_no_password_stands_in_a_unit(tmp_path: Path) -> None:
    """Everybody on the host may read units."""
    for url in ("postgresql://me:hush@host/db", "postgresql://me:a/hush@host/db", "postgresql://host/db?passw%6Frd=hush"):
        with pytest.raises(SpecError, match="environment_file"):
            make_manifest("systemd", request(tmp_path, storage=url))


def started(unit: str) -> str:
    return next(x for x in unit.splitlines() if x.startswith("ExecStart="))


def test_a_database_server_is_waited_for(tmp_path: Path) -> None:
    """At boot it may come up later than the unit; a file is there or is made."""
    assert "--wait-for-database" in started(make_manifest("systemd", request(tmp_path, storage="postgresql://me@host/db")))
    assert "--wait-for-database" not in started(make_manifest("systemd", request(tmp_path)))


def test_a_unit_of_several_devices_uses_all_of_them(tmp_path: Path) -> None:
    """`start` places one worker per device where it is given no number, and serves the metrics of all of them."""
    file = fake.write_study(tmp_path, ("engines: [fake]", "engines: [fake]\ndevices: [fake:0, fake:1]"))
    assert "--workers" not in started(make_manifest("systemd", ManifestRequest(study="fake", study_file=file)))
    unit = make_manifest("systemd", ManifestRequest(study="fake", study_file=file, options=("metrics=9464",)))
    assert started(unit).endswith('"--metrics" "9464"')


def test_trials_are_the_studys_own_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM reaches the study alone; one that was stopped by hand is no failure; a killed trial does not end it."""
    monkeypatch.setenv("AUTOTUNE_LOCKS", "/run/lock/a b")
    unit = make_manifest("systemd", request(tmp_path, options=("metrics=9464",))).splitlines()
    for line in ("KillMode=mixed", "SuccessExitStatus=130", "OOMPolicy=continue", 'Environment="AUTOTUNE_LOCKS=/run/lock/a b"'):
        assert line in unit
    assert next(x for x in unit if x.startswith("ExecStart=")).endswith('"--metrics" "9464"')


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_it(tmp_path: Path) -> None:
    """systemd's own reader finds nothing to complain about."""
    file = tmp_path / "autotune-fake.service"
    file.write_text(make_manifest("systemd", request(tmp_path / "a b")))
    done = subprocess.run(["systemd-analyze", "verify", "--user", str(file)], capture_output=True, text=True, check=False)
    assert "autotune-fake" not in done.stderr, done.stderr
