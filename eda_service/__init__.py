"""Efficient Draft Adaptation as a service: keeps speculative decoding fast on fine-tuned targets (arXiv 2603.09527)."""

__version__ = "0.2.0"
