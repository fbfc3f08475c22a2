from __future__ import annotations

import errno
from pathlib import Path

import pytest

from utils.atomic import whole_file
from utils.errors import UserError


def test_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError(errno.ENOSPC, "No space left")])
def test_what_was_there_stays(tmp_path: Path, error: Exception) -> None:
    """A full disk, or any other fault while writing."""
    path = tmp_path / "file.txt"
    path.write_text("earlier")
    expected = UserError if isinstance(error, OSError) else RuntimeError

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half of")
            raise error

    with pytest.raises(expected) as caught:
        write()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert "file.txt: cannot be written (No space left)" in str(caught.value)


def test_a_folder_or_a_file_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"), whole_file(tmp_path):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"), whole_file(tmp_path / "file" / "y"):
        pass
