"""Prompt files as people have them: lines, arrays, gzip; what is none of these is refused with the next step."""

from __future__ import annotations

import gzip
import io
import json
import math
from typing import Any

import pytest

from eda_service.errors import DatasetInvalidError
from eda_service.records import MAX_ROW_BYTES
from eda_service.selfgen import row_files
from eda_service.selfgen.row_files import FileRow, rows_of

ROWS = [{"prompt": f'q{n} é \U0001f600 ] , [ }} \\ " \u2028'} for n in range(3)]


def read(data: bytes) -> list[FileRow]:
    return list(rows_of(io.BytesIO(data), shown="f", param="p"))


def lines(end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in ROWS).encode()


def array(**options: Any) -> bytes:
    return json.dumps(ROWS, **options).encode()


FILES = {
    "lines": lines(),
    "lines of Windows": lines("\r\n"),
    "a mark of byte order": b"\xef\xbb\xbf" + lines(),
    "blank lines": b"\n  \n" + lines("\n\n"),
    "no end of the last line": lines().rstrip(b"\n"),
    "an array": array(),
    "an array over several lines": array(indent=2, ensure_ascii=False) + b"\n",
    "an array with a mark of byte order": b"\xef\xbb\xbf\r\n" + array(indent=1),
    "gzip": gzip.compress(lines(), mtime=0),
    "gzip of an array": gzip.compress(array(indent=2), mtime=0),
    "gzip in two members": gzip.compress(lines()[:30], mtime=0) + gzip.compress(lines()[30:], mtime=0),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_people_have_is_read_and_its_copy_reads_the_same(name: str) -> None:
    copy: list[bytes] = []
    found = list(rows_of(io.BytesIO(FILES[name]), shown="f", param="p", tee=copy.append))
    assert [row.value for row in found] == ROWS
    assert all(row.trouble is None for row in found)
    assert read(b"".join(copy)) == found


def test_rows_are_numbered_as_an_editor_or_jq_numbers_them() -> None:
    assert [row.where for row in read(b"\n" + lines("\n\n"))] == ["f, line 2", "f, line 4", "f, line 6"]
    assert [(row.number, row.where) for row in read(array())] == [(1, "f, row 1"), (2, "f, row 2"), (3, "f, row 3")]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64])
def test_an_array_may_be_cut_anywhere_as_it_is_read(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(row_files, "_CHUNK_BYTES", chunk_bytes)
    assert [row.value for row in read(array(ensure_ascii=False, indent=1))] == ROWS


def test_a_row_of_an_array_that_is_none_is_a_row_and_the_others_are_read() -> None:
    found = read(b'[{"a": 1}, 12, null, "x", {"a": 1, "a": 2}, {"a": NaN}]')
    assert [row.value for row in found[:4]] == [{"a": 1}, 12, None, "x"]
    assert found[4].trouble == "not JSON (it has a key twice in one object)"
    assert math.isnan(found[5].value["a"])


def test_a_line_that_is_too_long_is_one_row_and_the_next_ones_are_read() -> None:
    long = b'{"prompt": "' + b"x" * MAX_ROW_BYTES + b'"}\n'
    copy: list[bytes] = []
    first, second = rows_of(io.BytesIO(long + b'{"prompt": "q"}\n'), shown="f", param="p", tee=copy.append)
    assert first.trouble == f"more than {MAX_ROW_BYTES} bytes; shorten it"
    assert (second.number, second.value) == (2, {"prompt": "q"})
    assert sum(map(len, copy)) == len(long) + 16


def test_a_first_line_that_is_nothing_at_all_is_a_row_with_its_reason() -> None:
    (first,) = read(b'a\r"b",\x00prompt')
    assert str(first.trouble).startswith("not JSON")


def test_an_empty_array_has_no_rows() -> None:
    assert read(b" [ ] ") == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PAR1\x15\x04", "is a Parquet file; write it as JSON lines .`datasets.load_dataset.'parquet'"),
        (b"ARROW1\x00\x00", "is an Arrow file"),
        (b"\x28\xb5\x2f\xfd\x04", "compressed with zstd; unpack it .`zstd -d FILE`"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"PK\x03\x04\x14", "a ZIP archive or a spreadsheet"),
        (lines().decode().encode("utf-16"), "UTF-16 text; write it as UTF-8 .`iconv"),
        (lines().decode().encode("utf-16-le"), "UTF-16 text"),
        (lines().decode().encode("utf-16-be"), "UTF-16 text"),
        (gzip.compress(lines(), mtime=0)[:-9], "a gzip file that is damaged"),
        (gzip.compress(lines(), mtime=0)[:12] + b"\xff" * 40, "a gzip file that is damaged"),
        (gzip.compress(b"PAR1", mtime=0), "is a Parquet file"),
        (b"instruction,input,output\nq,,a\n", r"a table \(CSV\); .*pandas.read_csv\(FILE\)"),
        (b'\xef\xbb\xbf"id","Prompt"\r\n1,"q"\r\n', r"a table \(CSV\)"),
        (b"question\tanswer\nq\ta\n", r"a table \(TSV\); .*sep='\\t'"),
        (b'{\n  "data": [\n    {"prompt": "q"}\n  ]\n}\n', r"spread over several lines; .*jq -c '.data\[\]'"),
        (b'[{"prompt": "q"}, {"prompt": ]', "a JSON array whose row 2 is not JSON"),
        (b'[{"prompt": "q"} {"prompt": "r"}]', "a JSON array that is broken after row 1"),
        (b'[{"prompt": "q"},]', "a JSON array whose row 2 is not JSON"),
        (b'[{"prompt": "q"}', "a JSON array that is broken after row 1"),
        (b'[{"prompt": "caf\xe9"}]', "cannot be read as UTF-8"),
        (b'[{"a": ' + b"[" * 200_000, "row 1 is (nested too deeply|not JSON)"),
        (b'[{"role": "user", "content": "q"}]\n[{"role": "user", "content": "r"}]\n', r'\{"messages": \[...\]\}'),
    ],
)
def test_what_is_not_read_is_refused_with_the_next_step(data: bytes, said: str) -> None:
    with pytest.raises(DatasetInvalidError, match=said) as caught:
        read(data)
    assert caught.value.param == "p"
    assert caught.value.message.startswith("f ")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_has_a_limit_also_unpacked(monkeypatch: pytest.MonkeyPatch, pack: Any) -> None:
    monkeypatch.setattr(row_files, "MAX_FILE_BYTES", 200)
    with pytest.raises(DatasetInvalidError, match="f has more than 200 bytes; split it"):
        read(pack(lines() * 9))


@pytest.mark.parametrize(
    ("part", "end", "of"), [(b"\n", b"", "lines"), (b'{"a": 1}\n', b"", "lines"), (b'{"a": 1}', b"]", "rows")]
)
def test_a_file_has_so_many_rows_and_no_more_however_short(
    monkeypatch: pytest.MonkeyPatch, part: bytes, end: bytes, of: str
) -> None:
    monkeypatch.setattr(row_files, "MAX_FILE_ROWS", 8)
    eight, nine = (b"[" + b",".join([part] * n) + end if end else part * n for n in (8, 9))
    assert len(read(eight)) == (0 if part == b"\n" else 8)
    with pytest.raises(DatasetInvalidError, match=f"f has more than 8 {of}; split it"):
        read(gzip.compress(nine))
