"""`python -m api.endpoint.redactor`: reads prompts on standard input, one JSON entry a line, redacts and stores them.

Each entry is `{"path", "num", "redact", "row"}` and is answered by an empty line once it is on disk; a first empty line
says that the process has started.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from eda_service.storage.samples.prompts import KeptPrompt, PromptFile

REDACTED = "[redacted]"


def redacted(row: KeptPrompt, patterns: Sequence[str]) -> KeptPrompt:
    """Remove all text that any of the patterns matches from a row."""
    messages = []
    for message in row["messages"]:
        content = message["content"]
        for pattern in patterns:
            content = re.sub(pattern, lambda found: REDACTED if found[0] else "", content)
        messages.append({**message, "content": content})
    return {**row, "messages": messages}


def keep(entries: TextIO, answers: TextIO) -> None:
    """Read entries until the input ends."""
    files: dict[tuple[str, int], PromptFile] = {}
    _say_done(answers)  # it has started
    for line in entries:
        entry = json.loads(line)
        key = entry["path"], entry["num"]
        if key not in files:
            files[key] = PromptFile(Path(entry["path"]), entry["num"])
        files[key].add(redacted(entry["row"], entry["redact"]))
        _say_done(answers)


def _say_done(answers: TextIO) -> None:
    answers.write("\n")
    answers.flush()


if __name__ == "__main__":
    keep(sys.stdin, sys.stdout)
