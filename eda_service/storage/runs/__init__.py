"""The run directory of a job: its state, logs, curve and heartbeat."""
