"""What this process and the replicas count, for Prometheus and for the pages."""
