"""What may be searched on this device, and Optuna's view of it."""
