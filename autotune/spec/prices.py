"""The price table: what an hour of each device costs, as its owner wrote it down. None is shipped, because prices are not ours.

currency: EUR
per_hour:
  Tesla V100-SXM2-16GB: 1.00      # as trials name the device (`autotune show`), or the beginning of that
  AMD EPYC 7B13: 0.10
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import SpecError
from autotune.spec.document import Document, read_document
from autotune.spec.positions import Faults, shown

_CURRENCY = re.compile(r"^[^\W\d_]{1,12}$|^[€$£¥]$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """`per_hour`: device → what it costs for an hour, in `currency`."""

    file: Path
    currency: str
    per_hour: Mapping[str, float]

    def price_of(self, device: str) -> float | None:
        """The price of an hour of the device; None where the table has none.

        A key stands for every device whose name begins with it, whole words only; of several the longest one counts.
        """
        fitting = [key for key in self.per_hour if _names(key, device)]
        return self.per_hour[max(fitting, key=len)] if fitting else None


def _names(key: str, device: str) -> bool:
    return device == key or (device.startswith(key) and not device[len(key)].isalnum())


def read_prices(path: Path) -> PriceTable:
    """The table at `path`. Raises SpecError listing every fault with its line."""
    document = read_document(path)
    faults = Faults(positions=document.positions, problems=list(document.problems))
    for key in document.values:
        if key not in ("currency", "per_hour"):
            faults.add(key, "an unknown key", "currency, per_hour")
    currency = document.values.get("currency")
    if not isinstance(currency, str) or not _CURRENCY.match(currency):
        faults.add("currency", shown(currency), "the currency's name or sign, such as EUR")
    per_hour = _prices(document, faults)
    if faults.problems:
        raise SpecError(sorted(dict.fromkeys(faults.problems), key=lambda p: p.line or 0))
    return PriceTable(file=path, currency=str(currency), per_hour=per_hour)


def _prices(document: Document, faults: Faults) -> dict[str, float]:
    section = document.values.get("per_hour")
    if not isinstance(section, Mapping) or not section:
        faults.add("per_hour", shown(section), "a section with a price for each device, such as `Tesla V100-SXM2-16GB: 1.00`")
        return {}
    found = {}
    for device, price in section.items():
        if isinstance(price, bool) or not isinstance(price, int | float) or not (0 < price <= sys.float_info.max):
            faults.add(f"per_hour.{device}", shown(price), "a price above 0, without the currency")
        else:
            found[device] = float(price)
    return found
