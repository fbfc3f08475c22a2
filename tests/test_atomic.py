from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from utils.atomic import whole_file
from utils.errors import UserError, run_script


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


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "deep" / "real.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("new", "newer"):  # it leads nowhere at first
        with whole_file(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink()
        assert target.read_text() == text


@pytest.mark.parametrize("device", ["/dev/null", "{link}"])
def test_a_device_is_written_to_and_stays_one(tmp_path: Path, device: str) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    path = Path(device.format(link=link))
    before = Path("/dev/null").stat()
    with whole_file(path) as temporary:
        temporary.write_text("away with it")
    after = Path("/dev/null").stat()
    assert (after.st_mode, after.st_ino, after.st_rdev) == (
        before.st_mode, before.st_ino, before.st_rdev
    )  # fmt: skip
    assert link.is_symlink()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    nobody = pytest.raises(UserError, match="nobody reads from this pipe")
    with nobody, whole_file(pipe) as temporary:
        temporary.write_text("x")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(pipe) as temporary:
        temporary.write_text("through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_standard_output_may_be_named() -> None:
    """Into a file, a pipe and as a device: none of them is replaced."""
    code = (
        "import sys; from utils.atomic import whole_file\n"
        "print('before', flush=True)\n"
        "with whole_file('/dev/stdout') as path: path.write_text('table\\n')\n"
        "print('after', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout == "before\ntable\nafter\n"


@pytest.mark.parametrize("reader", ["full disk", "gone"])
def test_a_terminal_that_takes_nothing_is_told(reader: str) -> None:
    """`script > log` on a full disk, and `script | head`."""
    script = "from utils.errors import run_script; run_script(lambda: print('x' * 100_000))"
    if reader == "gone":
        end, output = os.pipe()
        os.close(end)
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(output)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: what this prints cannot be written: ")


def test_a_lack_of_memory_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_script(lambda: np.ones((2**20, 2**33)).size)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is not enough memory (Unable to allocate")


def test_a_script_without_a_screen_does_its_work() -> None:
    """`script >&- 2>&-`: whatever it does with its streams."""
    told = "import sys; print('x', file=sys.stderr); sys.stdout.write('x'); sys.stderr.flush()"
    script = f"from utils.errors import run_script\ndef main(): {told}\nrun_script(main)"
    closed = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, script]
    assert subprocess.run(closed, cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output_goes_on_where_it_stands(name: str, tmp_path: Path) -> None:
    """As with >> in a shell: what stood there before stays, and what comes after is after."""
    program = (
        "from utils.atomic import whole_file\nprint('printed')\n"
        f"with whole_file({name!r}) as path:\n    path.write_text('written\\n')\nprint('after')"
    )
    place = tmp_path / "out.csv"
    place.write_text("before\n")
    with place.open("a") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, cwd=ROOT, check=True)
    assert place.read_text().splitlines() == ["before", "printed", "written", "after"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "choose a folder that you may write to"),
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
    ],
)
def test_the_remedy_fits_the_cause(tmp_path: Path, code: int, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy), whole_file(tmp_path / "x"):
        raise OSError(code, os.strerror(code))
