"""Measuring: the load loop, the statistics that make an interval of it, and accuracy on labelled data."""
