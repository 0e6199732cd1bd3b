"""Content of the pages about jobs."""
