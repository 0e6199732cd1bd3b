"""Every knob once: of jobs, deployments and presets."""
