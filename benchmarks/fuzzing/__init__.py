"""The parts of `benchmarks/fuzz.py`: good inputs, mutations of them, the real loading paths, and workers that may die."""
