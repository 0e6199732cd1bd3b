"""Jobs of every kind: what callers send and get, and what can be done with them."""
