"""The database: our tables beside Optuna's, written in one transaction per trial, read by views and by `Store`."""
