"""The way to the endpoint: who may ask for which deployment, how much, and where it answers."""
