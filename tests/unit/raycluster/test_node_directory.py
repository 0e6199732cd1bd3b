"""Where a Ray node keeps its files: private, short enough for sockets, and gone as a whole."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from eda_service.raycluster.node_directory import NodeDirectory, remove_node_directory


@pytest.mark.parametrize("length", [1, 30])
def test_nobody_else_can_enter_it_and_sockets_fit(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Beneath a short temporary directory, and beneath one that is too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp") as root:
        base = Path(root, "t" * length)
        base.mkdir(parents=True)
        monkeypatch.setattr(tempfile, "tempdir", str(base))
        made = NodeDirectory()
        tmp = Path(made.env["TMPDIR"])
        assert (made.path.parent == base) == (length == 1)
        assert base in tmp.parents
        assert len(str(made.ray)) <= 40
        assert [path.stat().st_mode & 0o777 for path in (made.path, tmp)] == [0o700, 0o700]
        (tmp / "left").write_text("x")
        (made.ray / "left").write_text("x")
        made.remove()
        assert list(base.iterdir()) == []
        assert not made.path.exists()


def test_a_temporary_directory_too_long_for_any_socket_is_left_to_its_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = tmp_path / ("t" * 60)
    base.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    made = NodeDirectory()
    assert made.env == {}
    assert len(str(made.ray)) <= 40
    made.remove()
    assert not made.path.exists()


def test_a_directory_that_is_none_of_ours_stays(tmp_path: Path) -> None:
    remove_node_directory(str(tmp_path))
    remove_node_directory("")
    assert tmp_path.exists()
    (tmp_path / "eda-ray-x").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "eda-ray-x" / "tmp").symlink_to(tmp_path / "kept")
    remove_node_directory(str(tmp_path / "eda-ray-x"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
