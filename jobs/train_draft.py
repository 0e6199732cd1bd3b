"""Train a draft: the trained part of an adaptation, or with --pretrain a base draft from scratch.

    python -m jobs.train_draft --job-id adapt_...
    python -m jobs.train_draft --pretrain smollm2-135m@2 --target smollm2-135m-instruct --data self --num-prompts 4000 \
        --set train.method=retrain --set selection.method=all

Pretraining lets the base target write prompts (--data self) and answers, trains a fresh draft on them and registers
it under EDA_HOME/drafts.
"""

from __future__ import annotations

import argparse
import logging

from eda_service.records import Stage
from jobs.common import main, open_run, parser
from jobs.stage import as_driver, run_one

logger = logging.getLogger("jobs.train_draft")


def arguments_of_training() -> argparse.ArgumentParser:
    """Make the parser with the arguments of every entry point and those of pretraining."""
    made = parser(__doc__ or "")
    made.add_argument("--pretrain", metavar="NAME@VERSION", help="train a base draft from scratch and register it")
    return made


def train(arguments: argparse.Namespace) -> None:
    """Train an adaptation's private part, or pretrain a base draft."""
    if arguments.pretrain is None:
        run_one(Stage.TRAIN)(arguments)
        return
    from eda_service.pipeline.pretrain import pretrain

    run, config = open_run(arguments)
    with as_driver(run):
        directory = pretrain(run, config, arguments.pretrain)
    logger.info("registered %s in %s", arguments.pretrain, directory)


if __name__ == "__main__":
    main(arguments_of_training(), train)
