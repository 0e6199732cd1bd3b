"""Settings of jobs, deployments and presets, each defined in one place."""
