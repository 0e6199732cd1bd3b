"""Trackers for a job's metrics, one module for each."""
