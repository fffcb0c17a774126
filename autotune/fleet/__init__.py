"""Where workers are placed: one per device, on one host or many, and what starts them there."""
