"""What is checked of a job at submit, before it is queued."""
