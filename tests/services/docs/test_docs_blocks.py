"""What can be said of the documentation's blocks without running them; `make test-docs` runs them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from doc_blocks import PAGES, RUNNABLE, blocks, eda_lines, languages, name_of
from typer_tree import check_line

LANGUAGES = {*RUNNABLE, "json", "toml", "yaml", "text"}
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@every_page
def test_each_block_says_what_it_is(page: Path) -> None:
    assert set(languages(page)) <= LANGUAGES


@every_page
def test_shell_blocks_parse_and_name_commands_and_options_that_exist(page: Path) -> None:
    for script in blocks(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{script}"
        for line in eda_lines(script):
            check_line(line)


@every_page
def test_python_and_data_blocks_parse(page: Path) -> None:
    for number, script in enumerate(blocks(page, "python")):
        compile(script, f"{page}:{number}", "exec")
    for text in blocks(page, "json"):
        json.loads(text)
    for text in blocks(page, "yaml"):
        yaml.safe_load(text)


def test_an_option_that_does_not_exist_would_be_found() -> None:
    script = "JOB=$(eda jobs ls --limit 1)\neda adapt m --nothing 3 \\\n  --watch | tee log; eda jobs vanish"
    lines = eda_lines(script)
    assert lines == ["eda jobs ls --limit 1", "eda adapt m --nothing 3    --watch", "eda jobs vanish"]
    check_line(lines[0])
    for line in lines[1:]:
        with pytest.raises(Exception, match="No such"):
            check_line(line)
