"""The Serve application: an OpenAI-compatible endpoint over the project's own engine."""
