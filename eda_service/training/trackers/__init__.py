"""Where a job's numbers go besides its records, one module for each tracker."""
