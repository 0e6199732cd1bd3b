"""What the endpoint serves: wanted and live states, loading, drift and promotion."""
