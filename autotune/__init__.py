"""autotune finds out how a trained deep-learning model is best deployed on the device at hand."""

from __future__ import annotations

__version__ = "0.1.0"
