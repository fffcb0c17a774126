"""What benchmarks/agreement.py is made of."""
