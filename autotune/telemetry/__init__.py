"""What the machine does while a candidate is measured: probes, sampled outside the timed threads."""
