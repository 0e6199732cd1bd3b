"""Rows of deployments: what Serve must offer, its loads and its drift."""
