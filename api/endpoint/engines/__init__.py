"""Engines behind the endpoint, the project's own and vLLM, and the groups that own them."""
