"""Planning of adaptations before they run: per stage of one job, and for many jobs a day on a shared cluster."""
