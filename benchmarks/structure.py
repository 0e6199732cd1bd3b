"""Counts of the source's structure: `python -m benchmarks.structure` prints them, `--against OLD.json` both.

The counts are:

* lines: of the Python files of `eda_service`, `api` and `jobs` (source) and of `benchmarks`, empty lines included.
* files for a new draft kind: modules outside the drafts' own package (and its fused form) that access a draft's layers
or name its concrete class; for a new selector: modules outside `selection` that name or compare a selector, or import
more of `selection` than the seam and its table; for a new training backend: modules that name DeepSpeed.
* twin classes: names that more than one module of the source defines as a class.
* dict[str, Any]: occurrences of this annotation in the source.
* single importers: modules of the source that exactly one other module imports.
* questions about storage: lines of the source that ask whether storage by URL is used.
* import circles: strongly connected sets of more than one package, where a package is a directory of the source and a
  module at the top of `eda_service` is one by itself; and of modules, imports inside functions counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("eda_service", "api", "jobs")

_DRAFT_PARTS = re.compile(r"\bdraft\.(layer|fc|fuse)\b|\bself_attn\b|\bmodel\.draft import|\bEagle1\w*|\beagle1\b")
_DRAFT_ROOM = re.compile(r"^eda_service/(model|drafts|target|targets)/|^eda_service/decoding/fused")
_SELECTORS = re.compile(
    r"\bSelector\.[A-Z]|selection\.method (is|==|!=|in|not)\b|eda_service\.selection\.(?!kinds\b|selector\b)\w+ import"
)
_STORAGE_QUESTIONS = re.compile(r"\bis_remote\b|\b_?storage is (not )?None\b|\bself\._blobs is (not )?None\b")
_BACKENDS = re.compile(r"deepspeed", re.IGNORECASE)


def source_files(*folders: str) -> Iterator[Path]:
    """Yield the Python files below these folders of the checkout."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def num_lines(files: Iterable[Path]) -> int:
    """Count the lines of these files together."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def files_with(pattern: re.Pattern[str], *, room: re.Pattern[str] | None = None) -> list[str]:
    """List source files in which the pattern occurs, without those of the package that owns the thing."""
    names = ((path.relative_to(ROOT).as_posix(), path) for path in source_files(*SOURCE))
    return [
        name
        for name, path in names
        if not (room and room.search(name)) and pattern.search(path.read_text(encoding="utf-8"))
    ]


def twin_classes() -> list[str]:
    """List names of classes that more than one module defines."""
    homes: defaultdict[str, set[Path]] = defaultdict(set)
    for path in source_files(*SOURCE):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(path)
    return sorted(name for name, paths in homes.items() if len(paths) > 1)


def imports() -> Mapping[str, set[str]]:
    """Return the modules of the source that each module imports, imports inside functions included."""
    graph = grimp.build_graph(*SOURCE, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def single_importers(graph: Mapping[str, set[str]]) -> list[str]:
    """List modules that exactly one other module imports."""
    counts = Counter(imported for modules in graph.values() for imported in modules)
    return sorted(module for module, count in counts.items() if count == 1)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Find strongly connected sets of more than one node (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def packages(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph between packages: the first two parts of a module's name."""
    merged: defaultdict[str, set[str]] = defaultdict(set)
    for module, imported in graph.items():
        home = _package(module)
        merged[home] |= {_package(other) for other in imported} - {home}
    return merged


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def counts() -> dict[str, int | list[str] | list[list[str]]]:
    """Return every count, and names for those that need to be read."""
    graph = imports()
    texts = [path.read_text(encoding="utf-8") for path in source_files(*SOURCE)]
    return {
        "source_lines": num_lines(source_files(*SOURCE)),
        "benchmark_lines": num_lines(source_files("benchmarks")),
        "files_for_a_draft_kind": files_with(_DRAFT_PARTS, room=_DRAFT_ROOM),
        "files_for_a_selector": files_with(_SELECTORS, room=re.compile(r"^eda_service/selection/")),
        "files_for_a_training_backend": files_with(_BACKENDS),
        "twin_classes": twin_classes(),
        "dict_str_any": sum(text.count("dict[str, Any]") for text in texts),
        "single_importers": single_importers(graph),
        "questions_about_storage": sum(
            bool(_STORAGE_QUESTIONS.search(line)) for text in texts for line in text.splitlines()
        ),
        "circles_of_packages": circles(packages(graph)),
        "circles_of_modules": circles(graph),
    }


def main() -> None:
    """Print the counts; `--names` lists the names, `--write` stores them, `--against` shows an older file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--names", action="store_true", help="list what is behind each count")
    parser.add_argument("--write", type=Path, help="write counts and names to this JSON file")
    parser.add_argument("--against", type=Path, help="a file of --write, to print beside")
    arguments = parser.parse_args()
    current = counts()
    before = json.loads(arguments.against.read_text(encoding="utf-8")) if arguments.against else None
    for name, value in current.items():
        shown = str(_count(value)) if before is None else f"{_count(before[name])} -> {_count(value)}"
        sys.stdout.write(f"{name:32} {shown}\n")
        if arguments.names and isinstance(value, list):
            for item in value:
                sys.stdout.write(f"    {item if isinstance(item, str) else ', '.join(item)}\n")
    if arguments.write:
        arguments.write.write_text(json.dumps(current, indent=1) + "\n", encoding="utf-8")


def _count(value: int | list[str] | list[list[str]]) -> int:
    return value if isinstance(value, int) else len(value)


if __name__ == "__main__":
    main()
