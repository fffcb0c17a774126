"""CUDA from Python: one small runtime protocol, and an adapter for each library that offers it."""
