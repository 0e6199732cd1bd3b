"""The rows of a prompt file as JSON values: JSON lines, or one JSON array, also compressed with gzip.

The first bytes decide the format, never the file's name, so that a copy under another name reads the same. Any other
format is refused with the command that converts it to JSON lines. At most one row is in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from eda_service.errors import DatasetInvalidError
from eda_service.records import MAX_ROW_BYTES
from eda_service.storage.inputs import bounded_json

MAX_FILE_BYTES = 2 << 30
MAX_FILE_ROWS = 10_000_000  # ten times the maximum of a job; a few MiB of gzip hold two thousand million empty lines
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 1 << 12
_CHUNK_BYTES = 1 << 16
_ARRAY = re.compile(rb"\s*\[\s*(\{|\]|$)")  # a row that is another list is only a wrong row
_SPACE = re.compile(r"[ \t\r\n]*")
_DATASETS = "write it as JSON lines (`datasets.load_dataset({0!r}, data_files=FILE)['train'].to_json('rows.jsonl')`)"
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", f"is a Parquet file; {_DATASETS.format('parquet')}"),
    (b"ARROW1", f"is an Arrow file; {_DATASETS.format('arrow')}"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it (`zstd -d FILE`)"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it (`xz -d FILE`)"),
    (b"BZh", "is compressed with bzip2; unpack it (`bzip2 -d FILE`)"),
    (b"PK\x03\x04", "is a ZIP archive or a spreadsheet; unpack it, and write its rows as JSON lines"),
    (b"\xff\xfe", "is UTF-16 text; write it as UTF-8 (`iconv -f utf-16 -t utf-8 FILE > rows.jsonl`)"),
    (b"\xfe\xff", "is UTF-16 text; write it as UTF-8 (`iconv -f utf-16 -t utf-8 FILE > rows.jsonl`)"),
    (b"{\x00", "is UTF-16 text; write it as UTF-8 (`iconv -f utf-16le -t utf-8 FILE > rows.jsonl`)"),
    (b"\x00{", "is UTF-16 text; write it as UTF-8 (`iconv -f utf-16be -t utf-8 FILE > rows.jsonl`)"),
)
_COLUMNS = frozenset(
    ("prompt", "instruction", "question", "query", "problem", "input", "messages", "conversations", "text", "output")
)

Tee = Callable[[bytes], None]


@dataclass(frozen=True)
class FileRow:
    """One row of a file.

    Attributes:
        number: Number of its line, or its place in the array; the first is 1.
        where: Name of the file and the number, for messages.
        value: Parsed value.
        trouble: Reason that the row could not be parsed; None if it was parsed.
    """

    number: int
    where: str
    value: Any = None
    trouble: str | None = None


def rows_of(stream: BinaryIO, *, shown: str, param: str, tee: Tee | None = None) -> Iterator[FileRow]:
    """Read the rows of a file one by one; blank rows are left out.

    Args:
        stream: The file, at its start; the stream can seek.
        shown: Name of the file in messages.
        param: Field that names the file.
        tee: Function that receives all bytes, unpacked, as they are read.

    Raises:
        DatasetInvalidError: The file is too long, has too many rows, is in no known format, or is a broken array.
        OSError: The file cannot be read to its end.
    """

    def refuse(why: str) -> DatasetInvalidError:
        return DatasetInvalidError(f"{shown} {why}", param=param)

    packed = stream.read(len(_GZIP)) == _GZIP
    stream.seek(0)
    plain = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if packed else stream
    try:
        head = plain.read(_HEAD_BYTES)
        plain.seek(0)
        _check_known(head, refuse)
        data = _Bounded(plain, refuse, tee)
        if _ARRAY.match(head.removeprefix(_BOM)):
            yield from _array_rows(data, shown, refuse)
        else:
            yield from _line_rows(data, shown, refuse)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise refuse(f"is a gzip file that is damaged ({error}); pack it again") from error


Refuse = Callable[[str], DatasetInvalidError]


class _Bounded:
    """A file's bytes up to the limit, each passed to `tee`."""

    def __init__(self, stream: BinaryIO, refuse: Refuse, tee: Tee | None) -> None:
        self._stream, self._refuse, self._tee = stream, refuse, tee
        self._num_bytes = 0

    def line(self, most: int) -> bytes:
        """Read the next line with its end, or at most `most` bytes of it."""
        # Not splitlines(): U+2028 and its like are legal inside a JSON string.
        return self._told(self._stream.readline(most))

    def chunk(self, most: int) -> bytes:
        """Read the next bytes, at most `most`."""
        return self._told(self._stream.read(most))

    def _told(self, data: bytes) -> bytes:
        self._num_bytes += len(data)
        if self._num_bytes > MAX_FILE_BYTES:
            raise self._refuse(f"has more than {MAX_FILE_BYTES} bytes; split it")
        if self._tee is not None and data:
            self._tee(data)
        return data


def _check_known(head: bytes, refuse: Refuse) -> None:
    """Refuse a file whose first bytes are not a JSON text."""
    why = next((each for magic, each in _FOREIGN if head.startswith(magic)), None)
    if why is not None:
        raise refuse(why)
    first = head.removeprefix(_BOM).lstrip().partition(b"\n")[0].strip().decode("utf-8", "replace")
    if first == "{":
        raise refuse(
            "has objects that are spread over several lines; write each on one (`jq -c . FILE > rows.jsonl`; where the "
            "rows lie beneath a key, `jq -c '.data[]'`)"
        )
    for mark, name in ((",", "csv"), ("\t", "tsv")) if first[:1] not in ("{", "[") else ():
        columns = _columns(first, mark)
        if len(columns) > 1 and _COLUMNS & {each.strip().lower() for each in columns}:
            more = "" if name == "csv" else ", sep='\\t'"
            raise refuse(
                f"is a table ({name.upper()}); write it as JSON lines (`pandas.read_csv(FILE{more})"
                ".to_json('rows.jsonl', orient='records', lines=True)`)"
            )


def _columns(line: str, mark: str) -> list[str]:
    """Return the column names of a table's first line; empty if the line is none."""
    try:
        return next(csv.reader([line], delimiter=mark), [])
    except csv.Error:
        return []


def _line_rows(data: _Bounded, shown: str, refuse: Refuse) -> Iterator[FileRow]:
    for number in itertools.count(1):
        line = data.line(MAX_ROW_BYTES + 2)  # with its end
        if not line:
            return
        _require_number(number, "lines", refuse)
        where = f"{shown}, line {number}"
        if len(line.removesuffix(b"\n").removesuffix(b"\r")) > MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = data.line(_CHUNK_BYTES)
            yield FileRow(number, where, trouble=f"more than {MAX_ROW_BYTES} bytes; shorten it")
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield _parsed(line, number, where)


def _parsed(line: bytes, number: int, where: str) -> FileRow:
    try:
        return FileRow(number, where, bounded_json.parse(line.decode("utf-8"), unique_keys=True))
    except UnicodeDecodeError as error:
        trouble = f"cannot be read as UTF-8 text: {error.reason}"
    except json.JSONDecodeError as error:
        trouble = f"not JSON ({error.msg} at column {error.colno})"
    except ValueError as error:
        trouble = f"not JSON ({error})"
    return FileRow(number, where, trouble=trouble)


def _require_number(number: int, of: str, refuse: Refuse) -> None:
    """Limit the number of rows, which limits the time to read a file: rows of a few bytes compress to
    almost nothing.
    """
    if number > MAX_FILE_ROWS:
        raise refuse(f"has more than {MAX_FILE_ROWS:,} {of}; split it")


def _array_rows(data: _Bounded, shown: str, refuse: Refuse) -> Iterator[FileRow]:
    """Read the elements of an array; after a broken element no other can be found, so reading ends there."""
    text = _Text(data, refuse)
    text.skip("\ufeff")
    text.skip("[")
    for number in itertools.count(1):
        if number == 1 and text.next() == "]":
            break
        _require_number(number, "rows", refuse)
        element = text.element(number)
        try:
            yield FileRow(number, f"{shown}, row {number}", bounded_json.parse(element, unique_keys=True))
        except ValueError as error:
            yield FileRow(number, f"{shown}, row {number}", trouble=f"not JSON ({error})")
        if text.next() == "]":
            break
        if not text.skip(","):
            raise refuse(f"is a JSON array that is broken after row {number}; mend it")
    text.skip("]")
    if text.next():
        raise refuse(
            "begins with a JSON array, and more follows it; write one object per line: a list of messages is "
            '{"messages": [...]}'
        )


class _Text:
    """A text that is read as far as the next element needs it."""

    def __init__(self, data: _Bounded, refuse: Refuse) -> None:
        self._data, self._refuse = data, refuse
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._buffer, self._at, self._is_whole = "", 0, False
        self._json = json.JSONDecoder()

    def next(self) -> str:
        """Return the next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def skip(self, mark: str) -> bool:
        """Skip a character if it is the next one."""
        is_next = self.next() == mark
        self._at += is_next
        return is_next

    def element(self, number: int) -> str:
        """Return the text of one JSON value."""
        self.next()
        while True:
            try:
                _, end = self._json.raw_decode(self._buffer, self._at)
            except RecursionError as error:
                raise self._refuse(f"is a JSON array whose row {number} is nested too deeply; mend it") from error
            except ValueError as error:
                end, why = 0, str(getattr(error, "msg", error))
            if end and (end < len(self._buffer) or self._is_whole):
                value, self._at = self._buffer[self._at : end], end
                return value
            if len(self._buffer) - self._at > MAX_ROW_BYTES:
                raise self._refuse(
                    f"is a JSON array whose row {number} has more than {MAX_ROW_BYTES} bytes, or is broken"
                )
            if not self._more():
                raise self._refuse(f"is a JSON array whose row {number} is not JSON ({why}); mend it")

    def _more(self) -> bool:
        """Read twice as much as is waiting, so that a long element is not parsed too often."""
        if self._is_whole:
            return False
        data = self._data.chunk(max(_CHUNK_BYTES, len(self._buffer) - self._at))
        self._is_whole = not data
        try:
            self._buffer = self._buffer[self._at :] + self._decode(data, not data)
        except UnicodeDecodeError as error:
            raise self._refuse(f"cannot be read as UTF-8 text: {error.reason}") from error
        self._at = 0
        return True
