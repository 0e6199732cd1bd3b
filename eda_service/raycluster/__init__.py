"""Our own Ray cluster and the clients of its Jobs and Serve APIs; importing the package imports no Ray."""
