"""Where the data folders are: `search_spaces/`, `storage/` and `dashboards/`, in a wheel or in a checkout."""

from __future__ import annotations

from pathlib import Path

from autotune.errors import EnvironmentProblem

_PACKAGE = Path(__file__).resolve().parent


def asset(relative: str) -> Path:
    """The path of a data file or folder such as "search_spaces/cpu.yaml". Raises EnvironmentProblem naming both places."""
    places = (_PACKAGE / "_assets" / relative, _PACKAGE.parent / relative)
    for place in places:
        if place.exists():
            return place
    raise EnvironmentProblem(
        f"autotune's data file {relative} is missing; looked in {places[0]} and {places[1]}.",
        remedy="python -m pip install --force-reinstall --no-deps autotune",
    )
