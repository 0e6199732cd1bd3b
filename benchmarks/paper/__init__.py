"""The paper's tables on SmolLM2: `make bench-paper`."""
