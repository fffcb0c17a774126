"""A recorded sweep as a search space."""

from __future__ import annotations

from dataclasses import replace

from assets.recorded_sweep import table


def test_pairs_that_were_built_from_one_variant_share_it_in_the_space() -> None:
    """A second engine that took fp32 and fp16 as the first had made them. Of its int8 nobody knows."""
    one = table()
    again = [replace(p, candidate=replace(p.candidate, engine="crate")) for p in one.points if p.candidate.precision != "int8"]
    both = replace(
        one,
        pairs=(*one.pairs, ("crate", "fp32"), ("crate", "fp16"), ("crate", "int8")),
        engines={**one.engines, "crate": one.engines["box"]},
        points=(*one.points, *again),
    ).space()
    assert both.graph_of("crate", "fp16") == both.graph_of("box", "fp16") != both.graph_of("box", "fp32")
    assert both.graph_of("crate", "int8") != both.graph_of("box", "int8")
