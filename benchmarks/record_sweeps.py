"""Records the tables that benchmarks/search.py compares search strategies on: four models, each on both CPU engines.

    python benchmarks/record_sweeps.py --data ../shared/data --out benchmarks/tables/

The folder of models holds imagenet/, cifar10/ and kws/ (see benchmarks/sweeps/*.yaml); the digits network is trained here,
which takes a minute. Each table is recorded by `autotune sweep` in --minutes (6; 25 in all with the training), or a half more
where that is too short to measure every point once. Close other programs first. Whatever ends it: start it again, and it goes
on where it was, leaving out the tables that are whole. One table only: --only digits.

    python benchmarks/record_sweeps.py --development

records six others into benchmarks/tables/development/: of models that are trained here (sweeps/development/models.py, four
minutes) and need no folder. Settings of a search are chosen on these, and judged on those (docs/search-settings.md).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SWEEPS = ("mobilenet", "resnet20", "ds_cnn", "digits")
DEVELOPMENT = ("wide", "transformer", "depthwise", "perceptron", "residual", "uneven")


def main() -> None:
    """Every table that is not there yet is recorded; the exit code is that of the first that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument("--data", type=Path)
    models.add_argument("--development", action="store_true")
    parser.add_argument("--out", type=Path, help="benchmarks/tables/, or development/ in it")
    parser.add_argument("--work", type=Path, default=Path(".autotune/sweeps"), help="study files and the digits network")
    parser.add_argument("--minutes", type=float, default=6.0, help="per table")
    parser.add_argument("--repeats", type=int, default=2, help="processes per point, if the time permits")
    parser.add_argument("--only", nargs="+", choices=[*SWEEPS, *DEVELOPMENT])
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the sweep under way is ended along with this script
    names = DEVELOPMENT if arguments.development else SWEEPS
    strange = sorted({*(arguments.only or names)} - {*names})
    if strange:
        which = "with" if arguments.development else "without"
        parser.error(f"--only {' '.join(strange)}: {which} --development the sweeps are {', '.join(names)}")
    work = arguments.work.resolve()
    out = (arguments.out or HERE / "tables" / ("development" if arguments.development else "")).resolve()
    _prepare(work, arguments.data, out)
    for name in arguments.only or names:
        if is_whole(out / f"{name}.json.gz"):
            print(f"{name}: is there already", file=sys.stderr)
            continue
        _make_model(work, name)
        code = _record(work / f"{name}.yaml", out / f"{name}.json.gz", arguments.minutes, arguments.repeats)
        if code != 0:
            sys.exit(code)


def is_whole(table: Path) -> bool:
    """True when the table's sweep has ended: its journal is gone."""
    return table.exists() and not table.with_name(table.name + ".journal").exists()


def _prepare(work: Path, data: Path | None, out: Path) -> None:
    """The study files, and beside them the folder of models; without one those of the development tables."""
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    if data is not None:
        link = work / "data"
        link.unlink(missing_ok=True)
        link.symlink_to(data.resolve())
    sweeps = HERE / "sweeps" if data is not None else HERE / "sweeps" / "development"
    for study in sweeps.glob("*.yaml"):
        shutil.copyfile(study, work / study.name)


def _make_model(work: Path, name: str) -> None:
    """The sweep's model is there, if it is one that is trained here."""
    digits, others = HERE.parent / "examples" / "digits" / "make_model.py", HERE / "sweeps" / "development" / "models.py"
    command = [digits, work / "digits"] if name == "digits" else [others, work / "development", name]
    folder = work / ("digits" if name == "digits" else f"development/{name}")
    if name in ("digits", *DEVELOPMENT) and not (folder / "val.npz").exists():
        subprocess.run([sys.executable, "-W", "ignore", *map(str, command)], check=True)


def _record(study: Path, table: Path, minutes: float, repeats: int) -> int:
    """The exit code of the sweep; one whose time was too short for every point gets half as much again, once."""
    for longer in (1.0, 1.5):
        print(f"{study.stem}: up to {longer * minutes:.0f} minutes", file=sys.stderr)
        command = [sys.executable, "-m", "autotune.cli.main", "sweep", str(study), "--out", str(table)]
        command += ["--repeats", str(repeats), "--hours", str(longer * minutes / 60)]
        code = subprocess.run(command, check=False).returncode
        if code != 2 or is_whole(table) or not table.exists():
            return code
    return code


if __name__ == "__main__":
    main()
