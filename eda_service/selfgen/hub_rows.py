"""Rows of a data set on the model hub, read from files of the hub only.

A data set's card lists the files of the data set, and its author may write a path of the reader's own machine there, or
an address in the reader's network. The data set library accepts both. It also has names of its own (`json`, `text`) for
files in the working directory, and columns of pictures and sounds whose values may be paths.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from eda_service.config.job import DatasetSpec
from eda_service.errors import DatasetInvalidError

PARAM = "dataset.source"
_HUB = "hf://datasets/"


def hub_rows(dataset: DatasetSpec) -> Iterable[Mapping[str, Any]]:
    """Read the rows, without the columns that hold no text.

    Raises:
        DatasetInvalidError: The data set or split does not exist, or it names files that are not its own.
    """
    from datasets import load_dataset

    try:
        with hub_files_alone():
            _require_no_builder(dataset.source)
            rows = load_dataset(dataset.source, split=dataset.split)
    except Exception as error:
        raise DatasetInvalidError(
            f"{dataset.source!r} is no file here and does not load as a Hugging Face data set: {str(error)[:200]}",
            param=PARAM,
        ) from error
    features = getattr(rows, "features", None) or {}
    media = [name for name, feature in features.items() if _holds_media(feature)]
    return rows.remove_columns(media) if media else rows  # type: ignore[no-any-return]  # the library is untyped


@contextlib.contextmanager
def hub_files_alone() -> Iterator[None]:
    """Restrict the data set library, inside the block, to files in repositories of the hub."""
    from datasets import data_files

    found = data_files.resolve_pattern

    def held(pattern: str, base_path: str, *args: Any, **kwargs: Any) -> list[str]:
        if not base_path.startswith(_HUB) or not _is_inside(pattern):
            raise DatasetInvalidError(
                f"the data set names the file {pattern[:96]!r}, which is not one of its own; use another one, or write "
                "its rows to a file",
                param=PARAM,
            )
        names: list[str] = found(pattern, base_path, *args, **kwargs)
        return names

    data_files.resolve_pattern = held
    try:
        yield
    finally:
        data_files.resolve_pattern = found


def _is_inside(pattern: str) -> bool:
    """Whether a pattern is a path within the repository, or a pattern that the library has made of such a path."""
    path = pattern.removeprefix(_HUB)
    return not (urlsplit(path).scheme or path.startswith(("/", "~", "\\")) or "::" in path or ".." in path.split("/"))


def _require_no_builder(source: str) -> None:
    """Refuse names that the library reserves: it would read the directory that this process runs in."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if source.lower() in _PACKAGED_DATASETS_MODULES:  # the library finds its cache by the lower-case name
        raise DatasetInvalidError("it is a format and no data set; a data set of the hub is written owner/name")


def _holds_media(feature: Any) -> bool:
    """Whether reading a value of a column would open a file or address that the value names."""
    if isinstance(feature, Mapping):
        return any(map(_holds_media, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_holds_media, feature))
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return _holds_media(inner)
    return hasattr(feature, "decode_example") and type(feature).__name__ != "Json"
