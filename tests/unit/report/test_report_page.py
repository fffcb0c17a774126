"""The report's page: whole, escaped, and nothing in it is fetched or run."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from test_front_picture import record

from autotune.fingerprint import DeviceFingerprint
from autotune.records import Regime, TrialRecord
from autotune.report.cloud import BARS_UP_TO, cloud_of
from autotune.report.page import Rejected, ReportContent, report_page
from autotune.report.svg import front_svg

EVIL = "<script>alert('x')</script>&\"https://example.org/x.js"
VOID = {"meta", "br", "circle", "path", "polyline"}


class Outline(HTMLParser):
    """Every tag and attribute of a page; raises where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def content(**changes: object) -> ReportContent:
    records = [record(1, 10.0, 0.9), record(2, 20.0, 0.8), record(3, None, 0.7)]
    device = DeviceFingerprint(device="a CPU", kind="cpu", cores=2, memory_mib=4, system="Linux", versions={"numpy": "2"})
    values: dict[str, object] = {
        "study": "s", "written_at": "2026-01-01T00:00:00+00:00", "n_trials": {"complete": 3, "rejected": 2, "crashed": 0},
        "target": 9, "cloud": cloud_of(records), "front": records[:2], "best": records[1],
        "reference": replace(record(0, 5.0, 0.9), role="reference"), "ties": {1: list(range(10, 40)), 2: []},
        "regimes": [Regime(number=2, since="t", steady_until="t", ratio=0.8, reason="slower")],
        "asked_for": {"batch_size": "1 to 64"},
        "rejected": [Rejected(state="rejected", reason="build_failed", stage="engine", n=2, example="no tactic")],
        "environment": device,
        "facts": {"objectives": "accuracy, throughput", "warm start": ""},
    }  # fmt: skip
    return ReportContent(**(values | changes))  # type: ignore[arg-type]


def test_everything_the_study_knows_is_in_it() -> None:
    """Front with intervals and ties, reference, regimes, knobs, rejections by reason, environment."""
    text = report_page(content())
    Outline(text)
    for expected in (
        "20.0 [18.0, 22.0]", "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21 and 18 more", ">ref<", "slower",
        "1 to 64", "build_failed", "no tactic", "a CPU", "numpy", "5 of 9 trials (3 complete, 2 rejected)",
        "best under the constraints is trial 2",
    ):  # fmt: skip
        assert expected in text
    assert "warm start" not in text


def test_the_instructions_of_a_cpu_are_in_it() -> None:
    """Where they are known: a study of an earlier version has none."""
    known = replace(content().environment, instructions=("amx_bf16", "avx2"))  # type: ignore[type-var]
    assert "amx_bf16, avx2" in report_page(content(environment=known))
    assert "instructions" not in report_page(content())


def test_what_the_database_holds_is_no_markup() -> None:
    """Names, messages and versions that look like tags are shown as text, wherever they come from."""
    evil: TrialRecord = replace(record(1, 10.0, 0.9), metric=EVIL)
    evil = replace(evil, candidate=replace(evil.candidate, engine=EVIL, precision=EVIL))
    text = report_page(
        content(
            study=EVIL,
            front=[evil],
            cloud=cloud_of([evil]),
            best=None,
            reference=replace(evil, role="reference"),
            ties={},
            regimes=[Regime(number=2, since=EVIL, steady_until="t", ratio=1.0, reason=EVIL)],
            asked_for={"precision": EVIL},
            rejected=[Rejected(state=EVIL, reason=EVIL, stage=EVIL, n=1, example=EVIL)],
            facts={EVIL: EVIL},
            environment=DeviceFingerprint(device=EVIL, kind=EVIL, cores=2, memory_mib=4, system=EVIL, versions={EVIL: EVIL}),
        )
    )
    assert "<script" not in text
    Outline(text)


def test_nothing_is_fetched() -> None:
    """No element or attribute that makes a browser ask for something, and a policy that would refuse it."""
    seen = Outline(report_page(content())).seen
    assert not {tag for tag, _ in seen} & {"script", "link", "img", "iframe", "object", "embed", "use", "image"}
    assert not [a for _, attrs in seen for a in attrs if a in ("src", "href", "xlink:href", "srcset", "action")]
    policies = [a["content"] for tag, a in seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_study_without_a_result_has_a_page() -> None:
    """Nothing measured is no error."""
    text = report_page(
        content(cloud=cloud_of([]), front=[], best=None, reference=None, ties={}, rejected=[], regimes=[], environment=None)
    )
    Outline(text)
    assert "Nothing was measured yet" in text and "No trial keeps to the constraints yet" in text


def test_the_drawing_is_bounded() -> None:
    """Thousands of trials are drawn once for each place that can be told apart, and without bars; the front keeps its own."""
    rng = np.random.default_rng(0)
    many = [record(i, float(rng.uniform(1, 100)), float(rng.choice((0.7, 0.8, 0.9)))) for i in range(4 * BARS_UP_TO)]
    top = record(9999, 120.0, 0.95)
    cloud = cloud_of([*many, top])
    assert len(cloud.thinned()) <= 3 * 400
    text = front_svg(cloud, [top], None)
    assert text.count("<title>") == 1 and len(re.findall('<path d="M[^"]*m0-2', text)) <= 3 * 400
