"""Rows of jobs: submission, leases, moves, events and removal."""
