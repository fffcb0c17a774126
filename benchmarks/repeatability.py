"""Do two studies of the same kind agree, and is the best still the best when it is measured later?

    python benchmarks/repeatability.py --data ../shared/data/imagenet --work FOLDER --out benchmarks/results/repeatability.json
    python benchmarks/repeatability.py STUDY.yaml --work FOLDER

The first is the study of race.py, of --trials trials; STUDY.yaml is any study file. Each study has a seed, a database and a
cache of its own, so nothing but the machine is common to them. With --together the searches run one after another, and then the
finalists of all studies at the same time, each study in a process of its own, taking turns on the device: so that a machine
that becomes faster or slower between two studies is no difference between them. Then, --pause minutes later, the best of every
study, what tied with it, and the reference are measured again: --rounds rounds in random order, each time in a fresh process.
Printed:

* agreement: the studies' best throughputs as they reported them, the largest over the smallest (aim: within 5 %);
* the best again: by how much each study's best is off the fastest of all later, and whether it ties with it;
* coverage: the share of the later measurements that lie in the interval which the study had reported.

Run again with the same --work, it goes on where it was: studies resume, and only the later rounds are done anew.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from race import study_file

from autotune.bench.rounds import RoundsFit
from autotune.candidate import Candidate
from autotune.cli.progress import PlainProgress
from autotune.records import FINISHED, Estimate, Regime, TrialRecord
from autotune.spec.load import load_spec
from autotune.spec.model import FinalistsSpec, see_users_modules
from autotune.store.repository import SEARCHED, open_store
from autotune.store.worker import this_worker
from autotune.study.apart import run_apart
from autotune.study.lock import device_lock
from autotune.study.loop import StopSwitch, registered_study, run_study
from autotune.study.plan import StudyPlan, make_plan
from autotune.study.scoring import best, best_ties, front
from autotune.trial.isolation import TrialProcess

AIM = 0.05
"""Two studies of the same kind agree on the best configuration's throughput within 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One study that ran to its end, with the trial that it calls the best and those that tie with it.

    `measured_s`: how long its trials took, the finalists' rounds and the canary included.
    """

    plan: StudyPlan
    records: list[TrialRecord]
    reference: TrialRecord
    regimes: list[Regime]
    measured_s: float
    best: TrialRecord
    ties: list[TrialRecord]


def main() -> None:
    """Runs the studies, waits, measures their best again and writes one JSON file."""
    arguments = _arguments()
    work = Path(arguments.work).resolve()
    if arguments.data is not None and arguments.study is None:
        made = work / "race" / "study.yaml"
        arguments.study = made if made.exists() else study_file(arguments.data.resolve(), work / "race", seed=0, trials=40)
    if arguments.study is None:
        raise SystemExit("name a study file or --data")
    if arguments.only is not None:
        _run(_plan(arguments, work, arguments.only), arguments.trials)
        return
    work.mkdir(parents=True, exist_ok=True)
    studies = _studies(arguments, work)
    time.sleep(60 * arguments.pause)
    later = _later(studies, arguments.rounds)
    document = {
        "machine": {"device": studies[0].plan.fingerprint.device, "versions": dict(studies[0].plan.fingerprint.versions)},
        "finalists": "together" if arguments.together else "one study after another",
        "agreement": _agreement(studies),
        "later": _verdicts(studies, later),
        "rates": {str(candidate): rates for candidate, rates in later.items()},
        "studies": [_row(s) for s in studies],
    }
    print(json.dumps({k: document[k] for k in ("agreement", "later")}, indent=2))
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.out).write_text(json.dumps(document, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?")
    parser.add_argument("--data", type=Path, help="the folder that race.py takes, instead of a study file")
    parser.add_argument("--work", required=True, help="folder for the studies, their caches and databases")
    parser.add_argument("--out")
    parser.add_argument("--studies", type=int, default=2)
    parser.add_argument("--trials", type=int, help="of each study; default: the file's budget")
    parser.add_argument("--together", action="store_true", help="the finalists of all studies at the same time")
    parser.add_argument("--rounds", type=int, default=5, help="of the later measurement")
    parser.add_argument("--pause", type=float, default=0.0, help="minutes between the last study and the later measurement")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # the study of this index and no more, for --together
    return parser.parse_args()


def _studies(arguments: argparse.Namespace, work: Path) -> list[Finished]:
    """Every study, run or resumed to its end."""
    indices = range(arguments.studies)
    for i in indices:
        _run(_plan(arguments, work, i, finalists=not arguments.together), arguments.trials)
    if arguments.together:
        begun = [subprocess.Popen([sys.executable, *sys.argv, "--only", str(i)]) for i in indices]
        if any([process.wait() for process in begun]):
            raise SystemExit("the finalists of a study could not be measured")
    return [_finished(_plan(arguments, work, i)) for i in indices]


def _plan(arguments: argparse.Namespace, work: Path, index: int, *, finalists: bool = True) -> StudyPlan:
    """The study of that index, with a seed, a database and a cache of its own."""
    folder = work / f"study-{index}"
    folder.mkdir(exist_ok=True)
    own = {"storage": f"sqlite:///{folder / 'study.db'}", "cache": str(folder / "cache"), "seed": index}
    spec = load_spec(Path(arguments.study), own)
    see_users_modules(spec)
    return make_plan(spec if finalists else spec.model_copy(update={"finalists": FinalistsSpec(rounds=0)}))


def _run(plan: StudyPlan, trials: int | None) -> None:
    with PlainProgress() as progress:
        run_study(plan, open_store(plan.spec.storage), this_worker(), progress, StopSwitch(), trials=trials)


def _finished(plan: StudyPlan) -> Finished:
    """What the study's database holds. Exits where it found nothing within its constraints."""
    store, spec = open_store(plan.spec.storage), plan.spec
    study = registered_study(plan, store)
    records = store.trials(study.id, FINISHED, SEARCHED) if study is not None else []
    chosen = best(records, spec)
    if study is None or chosen is None:
        raise SystemExit(f"study {spec.seed}: no trial kept to the constraints")
    return Finished(
        plan=plan,
        records=records,
        reference=store.trials(study.id, ["complete"], ["reference"])[-1],
        regimes=store.regimes(study.id),
        measured_s=store.measured_s(study.id, ("reference", "search", "final", "canary")),
        best=chosen,
        ties=best_ties(records, spec),
    )


def _later(studies: Sequence[Finished], rounds: int) -> dict[Candidate, dict[Hashable, float]]:
    """Items per second by round of every study's best, its ties and the reference, in fresh processes and random order."""
    first = studies[0]
    homes = {first.plan.reference: first} | {r.candidate: s for s in studies for r in (s.best, *s.ties)}
    found: dict[Candidate, dict[Hashable, float]] = {candidate: {} for candidate in homes}
    shuffle = random.Random(0).shuffle
    with TrialProcess(first.plan.preload) as process, device_lock(first.plan.lock_name):
        for round_ in range(rounds):
            order = list(homes)
            shuffle(order)
            for candidate in order:
                record = _measured(process, homes[candidate], candidate)
                rate = record.throughput_items_per_s
                if rate is not None:
                    found[candidate][round_] = rate.value
                print(f"later round {round_}: {candidate}: {rate.value if rate else record.reject}", flush=True)
    return found


def _measured(process: TrialProcess, home: Finished, candidate: Candidate) -> TrialRecord:
    return run_apart(home.plan, process, candidate, home.reference.scores_key)


def _agreement(studies: Sequence[Finished]) -> dict[str, Any]:
    rates = [_rate(s.best).value for s in studies]
    apart = max(rates) / min(rates) - 1
    return {"best_items_per_s": rates, "largest_over_smallest": apart, "aim": AIM, "agree": apart <= AIM}


def _verdicts(studies: Sequence[Finished], later: dict[Candidate, dict[Hashable, float]]) -> list[dict[str, Any]]:
    """Of each study's best: its ratio to the fastest of all later, with the interval, and how the interval it had held."""
    if not any(later.values()):
        raise SystemExit("nothing could be measured again: the lines above say why")
    fit = RoundsFit({candidate: rates for candidate, rates in later.items() if rates})
    means = {c: sum(rates.values()) / len(rates) for c, rates in later.items() if rates}
    fastest = max(means, key=lambda c: means[c])
    verdicts = []
    for study in studies:
        chosen, reported = study.best.candidate, _rate(study.best)
        rates = list(later[chosen].values())
        if not rates:  # it failed in every round, as the lines printed above say
            verdicts.append({"best": chosen.as_json(), "later_items_per_s": [], "is_fastest_or_ties": False})
            continue
        behind = None if chosen == fastest else fit.difference(chosen, fastest)
        verdicts.append(
            {
                "best": chosen.as_json(),
                "reported_items_per_s": [reported.low, reported.value, reported.high],
                "later_items_per_s": rates,
                "later_over_reported": means[chosen] / reported.value,
                "inside_interval": sum(reported.low <= r <= reported.high for r in rates) / len(rates),
                "is_fastest_or_ties": chosen == fastest or behind is None or behind.high >= 0,
                "log_ratio_to_fastest": None if behind is None else [behind.low, behind.value, behind.high],
            }
        )
    return verdicts


def _rate(record: TrialRecord) -> Estimate:
    if record.throughput_items_per_s is None:
        raise SystemExit(f"trial {record.number} has no throughput")
    return record.throughput_items_per_s


def _row(study: Finished) -> dict[str, Any]:
    return {
        "seed": study.plan.spec.seed,
        "measured_s": study.measured_s,
        "n_trials": len(study.records),
        "regimes": len(study.regimes) + 1,
        "best": study.best.as_json(),
        "ties": [r.number for r in study.ties],
        "front": [r.number for r in front(study.records, study.plan.spec)],
        "reference": study.reference.as_json(),
    }


if __name__ == "__main__":
    main()
