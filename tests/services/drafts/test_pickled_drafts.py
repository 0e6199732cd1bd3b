"""`pytorch_model.bin` is converted in a process of its own, by an unpickler that runs nothing."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dialect_files import IDS, TARGET, bytes_of, official, official_eagle1, put, tensors_of

from eda_service.drafts.dialects import conversion
from eda_service.drafts.dialects.conversion import ImportLimits
from eda_service.drafts.dialects.read import read_source
from eda_service.errors import DraftIncompatibleError, UnsafeDraftError


@pytest.mark.parametrize("files", ["bin", "bins"])
def test_a_pickled_draft_is_read_as_its_safetensors_are(tmp_path: Path, files: str) -> None:
    tensors = tensors_of(embedding=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    source = put(tmp_path / "bin", official, tensors, files=files)
    read = read_source(source, TARGET, scratch=scratch)
    same = read_source(put(tmp_path / "safe", official, tensors), TARGET)
    assert read.config == same.config
    assert {name: b"".join(at.blocks()) for name, at in read.tensors.items()} == {
        name: bytes_of(tensor) for name, tensor in tensors.items()
    }
    assert read.vocab_W is not None
    assert read.vocab_W.tolist() == IDS
    for file in read.record.files:
        assert file.pickled is not None
        assert file.pickled.size_bytes == (source / file.pickled.name).stat().st_size
        assert len(file.pickled.sha256) == 64
    assert read.record.unread_files == ()


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def test_a_pickle_with_code_in_it_runs_nothing(tmp_path: Path) -> None:
    source, mark = put(tmp_path / "draft", official_eagle1, tensors_of("eagle1"), files="bin"), tmp_path / "mark"
    torch.save({"fc.weight": Evil(mark)}, source / "pytorch_model.bin")
    with pytest.raises(UnsafeDraftError, match=r"holds code.*posix\.system.*nothing of it was run"):
        read_source(source, TARGET, scratch=tmp_path)
    assert not mark.exists()
    assert not (tmp_path / "pytorch_model.safetensors").exists()
    assert mark.parent.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "it is armed: an ordinary unpickler runs it"


def test_without_a_place_to_convert_to_and_above_the_limit_pickles_are_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "draft", official_eagle1, tensors_of("eagle1"), files="bin")
    with pytest.raises(UnsafeDraftError, match="only safetensors are read"):
        read_source(source, TARGET)
    with pytest.raises(DraftIncompatibleError, match="the limit for pickled weights is 1024"):
        read_source(source, TARGET, scratch=tmp_path, limits=ImportLimits(max_pickle_bytes=1024))


def test_where_no_process_can_be_confined_nothing_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_MODULE", "eda_service.drafts.dialects.no_such_worker")
    source = put(tmp_path / "draft", official_eagle1, tensors_of("eagle1"), files="bin")
    with pytest.raises(UnsafeDraftError, match="no confined process"):
        read_source(source, TARGET, scratch=tmp_path)


def test_a_confined_process_reaches_no_network_and_starts_no_program() -> None:
    code = """
import json, os, socket, threading
from eda_service.drafts.dialects.confine import confine
confine()
found = {}
def tried(name, call):
    try:
        call()
        found[name] = "done"
    except OSError as error:
        found[name] = error.errno
tried("socket", socket.socket)
tried("exec", lambda: os.execv("/bin/true", ["true"]))
threading.Thread(target=lambda: tried("in a thread", socket.socket)).start()
tried("file", lambda: open("/dev/null").close())
while "in a thread" not in found: pass
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == {"socket": 1, "exec": 1, "in a thread": 1, "file": "done"}
