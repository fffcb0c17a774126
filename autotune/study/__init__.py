"""The loop that asks for a candidate, runs it as a trial, saves what came of it and tells the search."""
