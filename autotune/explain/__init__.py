"""Why an engine takes the time it takes: pure functions on what engines tell of their layers."""
