"""The accelerators of this machine: which there are, which one a study uses, and what it can compute."""
