"""Counts and reports of replicas, and their sum over a group."""
