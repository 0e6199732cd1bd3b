"""MkDocs hook: pages link to files of the repository outside `docs/`; here those files come along.

A linked Markdown file becomes a page and may link on; any other file is copied. A linked directory is its README, or
that of the nearest directory above. Nothing is copied into the tree: the site's files point to the repository's.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = "docs"
_ALWAYS = ("benchmarks/README.md", "CHANGELOG.md")  # named by the navigation
_LINK = re.compile(r"(?<=\]\()(?![a-z+]+:|#|/)(?P<path>[^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to, and those that the added pages link to."""
    root = Path(config.config_file_path).parent
    waiting = [*_ALWAYS]
    for file in files.documentation_pages():
        waiting += _outside(root, PurePosixPath(DOCS, file.src_uri), file.content_string)
    added: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in added:
            continue
        added.add(path)
        files.append(File.generated(config, path, abs_src_path=str(root / path)))
        if path.endswith(".md"):
            waiting += _outside(root, PurePosixPath(path), (root / path).read_text(encoding="utf-8"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that lead out of `docs/`, or from out there, point to where the files are in the site."""
    root = Path(config.config_file_path).parent
    here = _place(page.file)

    def moved(link: re.Match[str]) -> str:
        target = _target(root, here, link["path"])
        if target is None or (here.parts[0] == DOCS and target.startswith(f"{DOCS}/")):
            return link["path"]
        return os.path.relpath(target.removeprefix(f"{DOCS}/"), PurePosixPath(page.file.src_uri).parent)

    return _LINK.sub(moved, markdown)


def _place(file: File) -> PurePosixPath:
    """Where a page is in the repository; generated reference pages count as in `docs/`."""
    outside = file.src_dir is None and file.abs_src_path is not None
    return PurePosixPath(file.src_uri) if outside else PurePosixPath(DOCS, file.src_uri)


def _outside(root: Path, here: PurePosixPath, markdown: str) -> Iterator[str]:
    for link in _LINK.finditer(markdown):
        target = _target(root, here, link["path"])
        if target is not None and not target.startswith(f"{DOCS}/"):
            yield target


def _target(root: Path, here: PurePosixPath, link: str) -> str | None:
    """Path in the repository that a link means; None when there is no such thing, which MkDocs then says."""
    path = os.path.normpath(here.parent / link)
    if path.startswith(f"{DOCS}/") and (root / path).is_dir():
        return f"{path}/index.md"
    while (root / path).is_dir():
        if (root / path / "README.md").is_file():
            return os.path.normpath(f"{path}/README.md")
        path = os.path.dirname(path) or "."
    return path if (root / path).is_file() and not path.startswith("..") else None
