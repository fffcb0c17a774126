"""Labelled samples: decoded once, kept as arrays on disk, preprocessed batch by batch."""
