"""Inference engines behind one protocol; nothing outside this room knows one by name."""
