"""The HTTP service: jobs API, gateway to Serve, and the Serve application itself."""
