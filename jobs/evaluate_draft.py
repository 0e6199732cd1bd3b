"""Measure acceptance, speedup and losslessness of base and adapted draft (Eq. 2).

python -m jobs.evaluate_draft --job-id adapt_... [--target ... --data ...]
"""

from __future__ import annotations

from eda_service.records import Stage
from jobs.common import main, parser
from jobs.stage import run_one

if __name__ == "__main__":
    main(parser(__doc__ or ""), run_one(Stage.EVALUATE))
