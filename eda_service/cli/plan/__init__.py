"""`eda plan`: what adaptations need of a machine and of a cluster."""
