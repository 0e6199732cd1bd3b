"""The stages of a job on Ray; importing the package does not import Ray, as the API process uses parts of it."""
