"""Let a target write answers to domain prompts, with hidden states and sample values (Eqs. 8-9, 11-14).

python -m jobs.self_generate --job-id adapt_... [--target ... --data ...]
"""

from __future__ import annotations

from eda_service.records import Stage
from jobs.common import main, parser
from jobs.stage import run_one

if __name__ == "__main__":
    main(parser(__doc__ or ""), run_one(Stage.GENERATE))
