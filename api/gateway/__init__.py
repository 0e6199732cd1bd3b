"""The gateway to the endpoint: which deployments a caller may use, how many requests, and where they are sent."""
