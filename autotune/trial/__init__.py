"""One trial from candidate to record, in a process of its own that may die."""
