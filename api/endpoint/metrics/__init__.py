"""What replicas count, what they report, and its sum over a group."""
