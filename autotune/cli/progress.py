"""A study's progress: a live picture on a terminal, a line per event elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from autotune.candidate import Candidate
from autotune.cli.render import console, reject_line, trial_table, with_interval
from autotune.records import TrialRecord
from autotune.study.plan import StudyPlan

if TYPE_CHECKING:
    from rich.console import RenderableType

_ROWS = 12
_SPARK, _SPARKS = "▁▂▃▄▅▆▇█", 60


class PlainProgress:
    """One line per trial on stderr, for logs and pipes."""

    def __init__(self) -> None:
        self._out = console(stderr=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def planned(self, plan: StudyPlan, n_finished: int, target: int) -> None:
        """The study's head, then what was removed from its space."""
        self._say(f"study {plan.spec.study}: {n_finished} of {target} trials done, on {plan.fingerprint.device}")
        for removal in plan.space.removed:
            self._say(f"  not searched: {removal}")

    def trial_began(self, number: int, candidate: Candidate, role: str) -> None:
        """Nothing: the outcome has its own line."""

    def stage_began(self, stage: str) -> None:
        """Nothing: a line per stage would drown the outcomes."""

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """One line: number, candidate, result."""
        self._say(outcome_text(record, reference))

    def repeated(self, of: TrialRecord, record: TrialRecord, round_: int) -> None:
        """One line: of which trial, in which round, result."""
        self._say(repetition_text(of, record, round_))

    def note(self, text: str) -> None:
        """The text."""
        self._say(text)

    def _say(self, text: str) -> None:
        self._out.print(text, markup=False, soft_wrap=True)


class LiveProgress(PlainProgress):
    """The front so far, the trial under way with its stage, and how far the study is; redrawn four times a second."""

    def __init__(self) -> None:
        from rich.live import Live

        super().__init__()
        self._plan: StudyPlan | None = None
        self._done, self._target = 0, 0
        self._began = time.monotonic()
        self._measured_here = 0
        self._current, self._stage, self._stage_began = "", "", time.monotonic()
        self._front: list[TrialRecord] = []
        self._reference: TrialRecord | None = None
        self._rates: list[float] = []
        self._last = ""
        self._live = Live(console=self._out, get_renderable=self._picture, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._live.__exit__(*details)

    def planned(self, plan: StudyPlan, n_finished: int, target: int) -> None:
        """The picture gets its head."""
        super().planned(plan, n_finished, target)
        self._plan, self._done, self._target = plan, n_finished, target

    def trial_began(self, number: int, candidate: Candidate, role: str) -> None:
        """The picture shows the candidate."""
        name = {"search": f"trial {number}", "final": f"finalist, measurement {number}", "canary": "reference again"}.get(
            role, role
        )
        self._current = f"{name}: {candidate}"
        self.stage_began("proposed")

    def stage_began(self, stage: str) -> None:
        """The picture shows the stage."""
        self._stage, self._stage_began = stage, time.monotonic()

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """The picture's front and bar move on."""
        self._front, self._reference = list(front), reference
        self._last = outcome_text(record, reference)
        if record.throughput_items_per_s:
            self._rates = [*self._rates[1 - _SPARKS :], record.throughput_items_per_s.value]
        if record.role == "search":
            self._done += 1
            self._measured_here += 1
        self._current = ""

    def repeated(self, of: TrialRecord, record: TrialRecord, round_: int) -> None:
        """The picture's last line."""
        self._last = repetition_text(of, record, round_)
        self._current = ""

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        elapsed = time.monotonic() - self._began
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(self._plan.spec.study if self._plan else "…", style="bold"),
            ProgressBar(total=max(1, self._target), completed=self._done, width=40),
            Text(f"{self._done}/{self._target}"),
            Text(f"{_clock(elapsed)} elapsed{self._remaining(elapsed)}", style="dim"),
        )
        lines: list[RenderableType] = [head]
        if self._current:
            lines.append(
                Text(f"{self._current}  ▸ {self._stage} {time.monotonic() - self._stage_began:.0f} s", overflow="ellipsis")
            )
        if self._last:
            lines.append(Text(f"last {self._last}", style="dim", overflow="ellipsis"))
        if self._rates:
            lines.append(Text(f"items/s {_sparkline(self._rates)}", style="cyan"))
        if self._reference is not None:
            lines.append(trial_table(self._front[:_ROWS], self._reference, "Pareto front so far"))
        return Group(*lines)

    def _remaining(self, elapsed: float) -> str:
        if not self._measured_here or self._done >= self._target:
            return ""
        return f", about {_clock(elapsed / self._measured_here * (self._target - self._done))} to go"


def outcome_text(record: TrialRecord, reference: TrialRecord | None) -> str:
    """One line for a person: "trial 7 openvino int8 …: 812.3 ±4.1 items/s (2.9×), top1 0.7825"."""
    name = "reference" if record.role == "reference" else f"trial {record.number}"
    head = f"{name} [{record.candidate}]"
    if record.reject is not None:
        return f"{head}: {reject_line(record)}"
    rate, base = record.throughput_items_per_s, reference.throughput_items_per_s if reference else None
    gain = f" ({rate.value / base.value:.2f}×)" if rate and base and base.value > 0 and record.role != "reference" else ""
    value = record.accuracy.value if record.accuracy else math.nan
    accuracy = f", {record.metric} {value:{'.4f' if abs(value) >= 1e-3 or value == 0 else '.3g'}}" if record.accuracy else ""
    return f"{head}: {with_interval(rate)} items/s{gain}{accuracy}"


def repetition_text(of: TrialRecord, record: TrialRecord, round_: int) -> str:
    """ "final round 2, trial 7 again: 812.3 ±4.1 items/s"."""
    name = "reference" if of.role == "reference" else f"trial {of.number}"
    result = reject_line(record) if record.reject else f"{with_interval(record.throughput_items_per_s)} items/s"
    return f"{record.role} round {round_}, {name} again: {result}" if record.role == "final" else f"{name} again: {result}"


def _sparkline(last: Sequence[float]) -> str:
    low, high = min(last), max(last)
    span = (high - low) or 1.0
    return "".join(_SPARK[int((v - low) / span * (len(_SPARK) - 1))] for v in last)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
