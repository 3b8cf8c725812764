import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from laplace_al.storage import locks
from laplace_al.storage.locks import FileLock, lock_path

ELSEWHERE = (
    "import pathlib, sys; from laplace_al.storage.locks import FileLock; "
    "FileLock(pathlib.Path(sys.argv[1]), 'results', 'call')"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
of_the_file = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it has a second file")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@pytest.fixture(params=["a lock of the file", "a second file"])
def path(request, tmp_path, monkeypatch):
    """Of a file that is locked as Linux does it, or as where there are no such locks."""
    if request.param == "a second file" and sys.platform == "linux":
        monkeypatch.delattr(locks.fcntl, "F_OFD_SETLK")
    path = tmp_path / "a%20b?.csv"
    path.write_text("readable")
    return path


def locked(path):
    return FileLock(path, "results", "call")


def is_free(path):
    """Whether another process can have it."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, path], stderr=subprocess.PIPE)
    assert done.returncode == 0 or b"is in use by another call" in done.stderr
    return done.returncode == 0


def in_a_fork(function):
    """Exit code of a child that calls a function."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_one_at_a_time(path):
    lock = locked(path)
    with pytest.raises(RuntimeError, match=r"results=.*in use by another call.*name another file"):
        locked(path)
    assert path.read_text() == "readable"
    lock.close()
    lock.close()
    locked(path).close()
    del lock
    forgotten = locked(path)
    del forgotten
    locked(path).close()


@pytest.mark.parametrize("name", ["symbolic", "folder", "relative"])
def test_by_another_name(path, name, monkeypatch):
    other = path.parent / "other"
    if name == "symbolic":
        other.symlink_to(path)
    elif name == "folder":
        other.symlink_to(path.parent, target_is_directory=True)
        other = other / path.name
    else:
        monkeypatch.chdir(path.parent)
        other = pathlib.Path(path.name)
    lock = locked(other)
    monkeypatch.chdir("/")
    lock.check()
    with pytest.raises(RuntimeError, match="in use"):
        locked(path)


@of_the_file
def test_by_a_hard_link(tmp_path):
    lock = locked(tmp_path / "one")
    os.link(tmp_path / "one", tmp_path / "two")
    with pytest.raises(RuntimeError, match="in use"):
        locked(tmp_path / "two")
    lock.check()
    assert not lock_path(lock.path).exists()


@of_the_file
def test_it_outlives_copies(tmp_path):
    """A lock of POSIX goes with the first descriptor of the file that the process closes."""
    path = tmp_path / "run" / "one"
    path.parent.mkdir()
    lock = locked(path)
    shutil.copytree(path.parent, tmp_path / "backup")
    path.read_bytes()
    assert not is_free(path)
    lock.close()
    assert is_free(path)


@of_the_file
@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="becomes other users")
def test_users_who_may_write_what_the_first_one_made():
    """They could only read a second file of that one's, and so not lock it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "one")
        path.parent.chmod(0o777)
        locked(path).close()
        path.chmod(0o666)
        lock = locked(path)

        def refused():
            os.setuid(65534)
            with pytest.raises(RuntimeError, match="in use"):
                locked(path)

        assert in_a_fork(refused) == 0
        lock.close()


@forks
def test_a_fork_has_no_lock(path):
    lock = locked(path)

    def refused():
        with pytest.raises(RuntimeError, match="belongs to the process that this one was forked"):
            lock.check()
        lock.close()
        with pytest.raises(RuntimeError, match="in use"):
            locked(path)

    assert in_a_fork(refused) == 0
    lock.check()
    with pytest.raises(RuntimeError, match="in use"):
        locked(path)


@forks
@of_the_file
def test_it_ends_with_its_process_though_a_fork_of_that_lives_on(tmp_path):
    reader, writer = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            lock = locked(tmp_path / "one")
            if os.fork() != 0:
                os.write(writer, b"x")
                lock.check()
            time.sleep(30)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    assert not is_free(tmp_path / "one")
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    assert is_free(tmp_path / "one")


@pytest.mark.parametrize("loss", ["deleted", "replaced", "renamed"])
def test_a_file_that_is_no_longer_there(path, loss):
    lock = locked(path)
    lock.check()
    if loss == "replaced":
        shutil.copy(path, path.parent / "copy")
        (path.parent / "copy").replace(path)
    elif loss == "renamed":
        path.rename(path.parent / "elsewhere")
    else:
        path.unlink()
    with pytest.raises(RuntimeError, match="was replaced, renamed or deleted while it was open"):
        lock.check()


def test_what_cannot_be_locked_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results=.*folder.*make it first"):
        locked(tmp_path / "missing" / "file")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    names = "x" * 999, "a\0b", "circle"
    for path in (tmp_path, pathlib.Path(""), *(tmp_path / name for name in names)):
        with pytest.raises(OSError, match=r"results=.*cannot be opened for writing"):
            locked(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match=r"pipe.* it is not a file"):
            locked(tmp_path / "pipe")
    assert not list(tmp_path.glob("*.lock"))
