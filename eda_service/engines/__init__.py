"""Engines that run a target for the stages of a job: the project's own engine, or vLLM."""
