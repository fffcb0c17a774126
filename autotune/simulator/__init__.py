"""Complete sweeps of real engines, recorded as tables and replayed on a virtual clock to compare search strategies."""
