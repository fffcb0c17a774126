"""What is said where no Ray cluster can be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from assets import fake_study as fake

RAY = """
class exceptions:
    class RayError(Exception): ...

def init(**settings):
    raise {raised}
"""


@pytest.mark.parametrize(
    "raised",
    [
        'ConnectionError("Failed to connect to Ray cluster at h:1")',  # what Ray 2.60 says of a cluster that wants a token
        'exceptions.RayError("no authentication token was found")',  # and with the mode, but without the token
    ],
)
def test_a_cluster_that_may_want_a_token_names_the_variable(raised: str, tmp_path: Path) -> None:
    """Ray sends a token only where RAY_AUTH_MODE asks for it; of a cluster that it starts itself nobody is asked."""
    fake.write_study(tmp_path)
    (tmp_path / "ray.py").write_text(RAY.format(raised=raised))
    words = ("start", "study.yaml", "--launcher", "ray")
    said = fake.autotune(tmp_path, *words, "--ray-address", "h:1", expect=3).stderr
    assert "no Ray cluster at h:1" in said and "RAY_AUTH_MODE=token" in said
    assert "RAY_AUTH_MODE" not in fake.autotune(tmp_path, *words, expect=3).stderr
