"""What benchmarks/race.py is made of."""
