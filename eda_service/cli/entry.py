"""Where the `eda` program starts: what has to be quick is answered before anything heavy is imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Complete a line for a shell, say the version, or run a command."""
    shell = os.environ.get("_EDA_COMPLETE", "")
    if shell:
        from eda_service.cli.completion.completion import answer

        answered = answer(shell, os.environ)
        if answered is not None:
            sys.stdout.write(answered.text)
            sys.exit(answered.exit_code)
    if sys.argv[1:] == ["--version"]:
        from eda_service.cli.version import version_text

        sys.stdout.write(version_text() + "\n")
        return
    from eda_service.cli.main import app

    if sys.stderr.isatty():  # who completes lines sits at a terminal, and waits least here
        from eda_service.cli.completion.completion import keep_tree

        keep_tree(os.environ)
    app(prog_name="eda")


if __name__ == "__main__":
    main()
