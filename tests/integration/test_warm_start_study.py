"""Two studies in one database: the second begins with what the first found, and measures it itself."""

from __future__ import annotations

import json
from pathlib import Path

from assets import fake_study as fake


def test_a_second_study_begins_with_the_first_ones_best(tmp_path: Path) -> None:
    """Its first trials are the first study's front, fastest first, flagged, complete with measurements of their own."""
    fake.write_study(tmp_path)
    fake.autotune(tmp_path, "start", "study.yaml")
    earlier = json.loads(fake.autotune(tmp_path, "front", "study.yaml", "--json").stdout)["front"]
    again = tmp_path / "again.yaml"
    again.write_text(
        (tmp_path / "study.yaml").read_text().replace("study: fake", "study: again").replace("trials: 12", "trials: 8")
    )
    done = fake.autotune(tmp_path, "start", "again.yaml")
    assert "from fake (the same model on this device)" in done.stderr
    trials = json.loads(fake.autotune(tmp_path, "trials", "again.yaml", "--json").stdout)
    n = min(len(earlier), 6)
    assert fake.candidates(trials[:n]) == fake.candidates(earlier[:n])
    assert all("warm_start:fake" in t["flags"] and t["started_at"] > earlier[0]["finished_at"] for t in trials[:n])
    assert not any("warm_start:fake" in t["flags"] for t in trials[n:])
    document = json.loads(fake.autotune(tmp_path, "front", "again.yaml", "--json").stdout)
    assert document["warm_start"]["n_trials"] == n and document["warm_start"]["studies"] == ["fake"]
    assert "warm start: " in fake.autotune(tmp_path, "front", "again.yaml").stdout


def test_a_study_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    """What it took over is still known after a restart, and nothing is taken over from a study that came since."""
    fake.write_study(tmp_path)
    fake.autotune(tmp_path, "start", "study.yaml")
    earlier = json.loads(fake.autotune(tmp_path, "front", "study.yaml", "--json").stdout)["front"]
    for name in ("again", "later"):
        (tmp_path / f"{name}.yaml").write_text((tmp_path / "study.yaml").read_text().replace("study: fake", f"study: {name}"))
        fake.autotune(tmp_path, "start", f"{name}.yaml", "--trials", 1)
    done = fake.autotune(tmp_path, "start", "again.yaml", "--trials", 8)
    trials = json.loads(fake.autotune(tmp_path, "trials", "again.yaml", "--json").stdout)
    n = min(len(earlier), 6)
    assert n > 1 and fake.candidates(trials[:n]) == fake.candidates(earlier[:n])
    assert all("warm_start:fake" in t["flags"] for t in trials[:n])
    assert not any(flag.startswith("warm_start:") for t in trials[n:] for flag in t["flags"])
    assert "to be measured anew" not in done.stderr


def test_what_it_began_with_moves_into_a_space_that_was_edited(tmp_path: Path) -> None:
    """No batches of 32 any more: what waits and what came from the first study is tried with 16, and still told to be its."""
    fake.write_study(tmp_path, (fake.PRIORS, "priors: []"))
    fake.autotune(tmp_path, "start", "study.yaml")
    text = (tmp_path / "study.yaml").read_text().replace("study: fake", "study: again")
    (tmp_path / "again.yaml").write_text(text)
    fake.autotune(tmp_path, "start", "again.yaml", "--trials", 1)
    (tmp_path / "again.yaml").write_text(text.replace("batch_size: [8, 16, 32]", "batch_size: [8, 16]"))
    done = fake.autotune(tmp_path, "start", "again.yaml", "--trials", 4)
    trials = json.loads(fake.autotune(tmp_path, "trials", "again.yaml", "--json").stdout)
    assert "out of range" not in done.stderr
    assert trials[0]["candidate"]["batch_size"] == 32 and {t["candidate"]["batch_size"] for t in trials[1:]} <= {8, 16}
    taken = [t for t in trials if "warm_start:fake" in t["flags"]]
    assert [t["number"] for t in taken] == [1, 2, 4]
    assert [(c["precision"], c["batch_size"]) for t in taken for c in [t["candidate"]]] == [
        ("int8", 32),
        ("fp32", 16),
        ("int8", 16),
    ]


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """`warm_start: off` begins with the priors of the file."""
    fake.write_study(tmp_path)
    fake.autotune(tmp_path, "start", "study.yaml", "--trials", 2)
    text = (tmp_path / "study.yaml").read_text().replace("study: fake", "study: cold") + "warm_start: off\n"
    (tmp_path / "cold.yaml").write_text(text)
    done = fake.autotune(tmp_path, "start", "cold.yaml", "--trials", 1)
    assert "warm start" not in done.stderr
    assert json.loads(fake.autotune(tmp_path, "front", "cold.yaml", "--json").stdout)["warm_start"] is None
