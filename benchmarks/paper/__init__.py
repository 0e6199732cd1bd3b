"""The paper's tables on SmolLM2: `make bench NAME=paper`."""
