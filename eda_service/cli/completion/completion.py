"""What a shell offers at the end of a line: commands, options, words, and ids and names from the running service.

A shell waits for this at each press of a key, so it imports neither the commands nor what they are made of. It reads
the tree of commands, which `command_tree` wrote into the user's cache, and asks the service once, for as long as a
person does not notice. What does not answer offers nothing: a shell that completes has no place for an
error.

The tree is written by the first command that is run in a terminal after the commands have changed (`keep_tree`), so
that no press of a key waits for it: until then the tree of before is read.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eda_service.cli.completion.offered import offered

_SAFE = re.compile(r"[\w.@/+-]+")
"""What may be offered: shells evaluate what they are given, and names of the service are somebody else's."""
_NOT_SAFE = re.compile(r"[^\w.@/+ -]")
FORM = 1
"""Of the file with the tree; another number where this module reads another one."""


class Answer(NamedTuple):
    """What the shell reads."""

    text: str
    exit_code: int = 0


class Item(NamedTuple):
    """One thing to offer."""

    value: str
    help: str = ""


@dataclass(frozen=True)
class Line:
    """A line as far as it is written: whole words after the program's name, and the beginning of the next."""

    words: tuple[str, ...]
    incomplete: str


def answer(shell: str, environment: Mapping[str, str]) -> Answer | None:
    """What to print for a shell; None: this is for Typer (other shells, the script that a shell loads).

    Args:
        shell: The instruction, such as `complete_bash`.
        environment: Variables, with the line in those that Typer's scripts set.
    """
    if shell not in {"complete_bash", "complete_zsh", "complete_fish"}:
        return None
    tree = read_tree(environment)
    line = _bash_line(environment) if shell == "complete_bash" else _written_line(environment)
    items = [item for item in complete(tree, line, environment) if _SAFE.fullmatch(item.value)]
    if shell == "complete_bash":
        return Answer("".join(f"{item.value}\n" for item in items))
    if shell == "complete_zsh":
        return Answer(_for_zsh(items))
    if environment.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        return Answer("", 0 if items else 1)
    return Answer("".join(f"{item.value}\t{_plain(item.help)}\n" if item.help else f"{item.value}\n" for item in items))


def complete(tree: Mapping[str, Any], line: Line, environment: Mapping[str, str]) -> list[Item]:
    """Everything that may stand at the end of a line."""
    place = _Place(tree)
    for word in line.words:
        place.take(word)
    if place.waits_for is not None:
        return _of(place.waits_for, line.incomplete, place.given, environment)
    if line.incomplete.startswith("-"):
        options: Mapping[str, Any] = place.node.get("options", {})
        return [Item(name, option.get("help", "")) for name, option in options.items() if _begins(name, line)]
    commands: Mapping[str, Any] = place.node.get("commands", {})
    if commands:
        return [Item(name, node.get("help", "")) for name, node in commands.items() if _begins(name, line)]
    source = place.next_argument()
    return [] if source is None else _of(source, line.incomplete, place.given, environment)


def read_tree(environment: Mapping[str, str]) -> Mapping[str, Any]:
    """The tree in the cache, of these commands or of those before them; made here where there is none."""
    kept = _kept(environment)
    if kept is None:
        return _write(environment, tree_stamp())
    tree: Mapping[str, Any] = kept["tree"]
    return tree


def keep_tree(environment: Mapping[str, str]) -> None:
    """Write the tree into the cache where it is none of these commands."""
    kept, now = _kept(environment), tree_stamp()
    if kept is None or kept["stamp"] != now:
        _write(environment, now)


def _kept(environment: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What is in the cache; None: nothing, or what another version cannot be read from."""
    try:
        kept: Mapping[str, Any] = json.loads(tree_path(environment).read_text(encoding="utf-8"))
        return kept if kept["form"] == FORM and kept["stamp"] and kept["tree"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(environment: Mapping[str, str], stamp: str) -> Mapping[str, Any]:
    from eda_service.cli.completion.command_tree import write_tree

    return write_tree(tree_path(environment), form=FORM, stamp=stamp)


def tree_path(environment: Mapping[str, str]) -> Path:
    """Where the tree is kept."""
    root = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "eda" / "commands.json"


def tree_stamp() -> str:
    """What changes when the commands do: the place and the times of their files."""
    here = Path(__file__).parents[1]
    return f"{here} {max(path.stat().st_mtime_ns for path in here.rglob('*.py'))}"


class _Place:
    """Where in the tree a line has come to."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.node = tree
        self.given: dict[str, str] = {}
        self.waits_for: Mapping[str, Any] | None = None
        self._option, self._num_arguments = "", 0

    def take(self, word: str) -> None:
        """One whole word."""
        if self.waits_for is not None:
            self.given[self._option], self.waits_for = word, None
        elif word.startswith("-") and len(word) > 1:
            name, equals, value = word.partition("=")
            option = self.node.get("options", {}).get(name, {})
            if equals:
                self.given[name] = value
            elif "value" in option:
                self._option, self.waits_for = name, option["value"]
        elif word in self.node.get("commands", {}):
            self.node, self._num_arguments = self.node["commands"][word], 0
        else:
            self._num_arguments += 1

    def next_argument(self) -> Mapping[str, Any] | None:
        """What the argument that comes next may be; the last one may come again where it says so."""
        arguments: Sequence[Mapping[str, Any]] = self.node.get("arguments", ())
        if self._num_arguments < len(arguments):
            return arguments[self._num_arguments]
        return arguments[-1] if arguments and arguments[-1].get("many") else None


def _of(
    source: Mapping[str, Any], incomplete: str, given: Mapping[str, str], environment: Mapping[str, str]
) -> list[Item]:
    """What a value may be."""
    if "words" in source:
        return [Item(word) for word in source["words"] if word.startswith(incomplete)]
    if "kind" not in source:
        return []
    found = offered(str(source["kind"]), url=given.get("--url"), environment=environment)
    return [Item(value, said) for value, said in found if value.startswith(incomplete)]


def _begins(name: str, line: Line) -> bool:
    return name.startswith(line.incomplete)


def _bash_line(environment: Mapping[str, str]) -> Line:
    words, place = _split(environment.get("COMP_WORDS", "")), environment.get("COMP_CWORD", "")
    number = int(place) if place.isdigit() else len(words)
    return Line(tuple(words[1:number]), words[number] if number < len(words) else "")


def _written_line(environment: Mapping[str, str]) -> Line:
    text = environment.get("_TYPER_COMPLETE_ARGS", "")
    words = _split(text)[1:]
    if words and not text.endswith(" "):
        return Line(tuple(words[:-1]), words[-1])
    return Line(tuple(words), "")


def _split(text: str) -> list[str]:
    """Words of a line whose last quote may be open."""
    lexer = shlex.shlex(text, posix=True)
    words: list[str] = []
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words.extend(lexer)
    except ValueError:
        words.append(lexer.token)
    return words


def _for_zsh(items: Sequence[Item]) -> str:
    if not items:
        return "_files"
    lines = (f'"{item.value}":"{_plain(item.help)}"' if item.help else f'"{item.value}"' for item in items)
    return f"_arguments '*: :(({chr(10).join(lines)}))'"


def _plain(text: str) -> str:
    """Words without anything that a shell takes for its own."""
    return " ".join(_NOT_SAFE.sub(" ", text).split())
