"""LayersContract: what an engine that tells its layers must keep to, as a pytest class that its author inherits.

class TestMyLayers(LayersContract):
    def engine(self) -> EngineContract:
        return TestMyEngine()
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from autotune.engines.layers import Explains, LayerReport
from autotune.testing.engine_contract import EngineContract, _inputs
from autotune.variants.outline import Outline, outline_of

_N_RUNS = 4
_ROLES = {"compute", "reformat", "copy", "quantize", "other"}


class LayersContract:
    """Inherit and define `engine`."""

    def engine(self) -> EngineContract:
        """The contract of the same engine, from which models and candidates are taken."""
        raise NotImplementedError("a subclass of LayersContract defines engine()")

    def test_every_convolution_is_in_one_layer_or_named_as_vanished(self, tmp_path: Path) -> None:
        """For every precision: no node is in two layers, none is unknown to the graph, and none is lost without a word."""
        for precision in self._precisions():
            report, outline = self._report(tmp_path, precision)
            held = Counter(name for layer in report.layers for name in layer.nodes)
            names = {n.name for n in outline}
            assert set(held) <= names, precision
            assert max(held.values()) == 1, f"{precision}: {held.most_common(1)}"
            for node in outline:
                if node.op in ("Conv", "Gemm"):
                    assert (held[node.name] == 1) != (node.name in report.vanished), f"{precision}: {node.name}"

    def test_layers_take_no_longer_than_the_whole(self, tmp_path: Path) -> None:
        """Times are means over the asked executions, of which layers are parts; a reading of a clock may be 2 µs off."""
        for precision in self._precisions():
            report, _ = self._report(tmp_path, precision)
            assert report.n_runs == _N_RUNS and report.method
            assert report.total_us is not None and report.total_us > 0
            times_us = [layer.time_us or 0.0 for layer in report.layers]
            assert min(times_us) >= 0
            assert sum(times_us) <= report.total_us + 2 * len(times_us), precision
            if report.runs_us:
                assert len(report.runs_us) == _N_RUNS
                assert sum(report.runs_us) / _N_RUNS == pytest.approx(report.total_us)

    def test_layers_say_what_they_are(self, tmp_path: Path) -> None:
        """Every layer has a name of its own, a kind and a role; those that compute say in which format."""
        report, _ = self._report(tmp_path, "fp32")
        names = [layer.name for layer in report.layers]
        assert len(set(names)) == len(names) and all(names)
        assert {layer.role for layer in report.layers} <= _ROLES
        assert all(layer.kind for layer in report.layers)
        assert {layer.precision for layer in report.layers if layer.role == "compute"} == {"fp32"}

    def _precisions(self) -> tuple[str, ...]:
        return self.engine()._available()[1].precisions

    def _report(self, folder: Path, precision: str) -> tuple[LayerReport, Outline]:
        contract = self.engine()
        backend, _ = contract._available()
        assert isinstance(backend, Explains)
        variant = contract._variant(folder, precision)
        candidate = contract._candidate(precision=precision, streams=1)
        engine = contract._engine(backend, variant, candidate, folder / f"layers-{precision}")
        batches = [_inputs(candidate.batch_size, seed) for seed in range(2)]
        return backend.layers(engine, candidate, batches, n_runs=_N_RUNS), outline_of(variant.path)
