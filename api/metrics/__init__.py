"""Counts of this process and of the replicas, for Prometheus and for the web pages."""
