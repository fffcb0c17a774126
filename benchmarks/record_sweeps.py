"""Records the tables that benchmarks/search.py compares search strategies on: four models, each on both CPU engines.

    python benchmarks/record_sweeps.py --data ../shared/data --out benchmarks/tables/

The folder of models holds imagenet/, cifar10/ and kws/ (see benchmarks/sweeps/*.yaml); the digits network is trained here,
which takes a minute. Each table is recorded by `autotune sweep` in --minutes (6; 25 in all with the training), or a half more
where that is too short to measure every point once. Close other programs first. Whatever ends it: start it again, and it goes
on where it was, leaving out the tables that are whole. One table only: --only digits.
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


def main() -> None:
    """Every table that is not there yet is recorded; the exit code is that of the first that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "tables")
    parser.add_argument("--work", type=Path, default=Path(".autotune/sweeps"), help="study files and the digits network")
    parser.add_argument("--minutes", type=float, default=6.0, help="per table")
    parser.add_argument("--repeats", type=int, default=2, help="processes per point, if the time permits")
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=SWEEPS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the sweep under way is ended along with this script
    work, out = arguments.work.resolve(), arguments.out.resolve()
    _prepare(work, arguments.data.resolve(), out)
    for name in arguments.only:
        if is_whole(out / f"{name}.json.gz"):
            print(f"{name}: is there already", file=sys.stderr)
            continue
        if name == "digits" and not (work / "digits" / "val.npz").exists():
            script = HERE.parent / "examples" / "digits" / "make_model.py"
            subprocess.run([sys.executable, "-W", "ignore", str(script), str(work / "digits")], check=True)
        code = _record(work / f"{name}.yaml", out / f"{name}.json.gz", arguments.minutes, arguments.repeats)
        if code != 0:
            sys.exit(code)


def is_whole(table: Path) -> bool:
    """True when the table's sweep has ended: its journal is gone."""
    return table.exists() and not table.with_name(table.name + ".journal").exists()


def _prepare(work: Path, data: Path, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    link = work / "data"
    link.unlink(missing_ok=True)
    link.symlink_to(data)
    for name in SWEEPS:
        shutil.copyfile(HERE / "sweeps" / f"{name}.yaml", work / f"{name}.yaml")


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
