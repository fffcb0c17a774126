"""Deployment bundles: the model, the settings it was measured with, and the evidence."""
