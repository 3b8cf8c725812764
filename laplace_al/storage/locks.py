"""Locks by which a file has one user at a time, while others may read it."""

import os
import pathlib
import struct
import sys
import weakref

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# What is locked: a byte that SQLite does not lock and no file here reaches. Windows counts to 2^31.
_BYTE = 2**31 - 2
_HELD: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def lock_path(path: pathlib.Path) -> pathlib.Path:
    """Return the path of the lock of a file on systems that cannot lock the file itself."""
    return path.with_name(path.name + ".lock")


class FileLock:
    """A file that nobody else can lock, by whatever name, until this is closed.

    Others may read the file. The lock belongs to the open file and not to the process (an OFD lock
    on Linux): it stays when the process opens and closes the file elsewhere, a fork does not have
    it, and the system gives it up when the process ends, however it ends. Where there are no such
    locks, as on macOS, a second file of :func:`lock_path` is locked by ``flock``.

    ``path``, links resolved, is made if it does not exist; its folder must. ``argument`` and
    ``user`` name the file and its user in messages. Raises RuntimeError if somebody else has the
    lock, and OSError if the file cannot be opened for writing or is none.
    """

    def __init__(self, path: pathlib.Path, argument: str, user: str) -> None:
        self._name = f"{argument}={str(path)!r}"
        self._user = user
        self._descriptors: list[int] = []
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{self._name}: the folder {str(path.parent)!r} does not exist; make it first."
            )
        try:
            self.path = path.resolve()
            if self.path.exists() and not self.path.is_file():
                raise OSError("it is not a file")
            self._open(self.path)
        except (OSError, ValueError, RuntimeError) as error:  # of no name, of links in a circle
            raise OSError(f"{self._name} cannot be opened for writing: {error}.") from error
        try:
            self._lock()
        except (BlockingIOError, PermissionError) as error:  # of POSIX, of Windows
            self.close()
            raise RuntimeError(
                f"{self._name} is in use by another {user}, of this process or another one. Close "
                "that first, or name another file."
            ) from error
        except OSError as error:
            self.close()
            raise OSError(f"{self._name} cannot be locked: {error}.") from error
        _HELD.add(self)

    @property
    def is_held(self) -> bool:
        """Return whether this is neither closed nor of a process that this one was forked from."""
        return bool(self._descriptors)

    def check(self) -> None:
        """Raise RuntimeError if the lock is closed or a fork's, or the file replaced or deleted."""
        if not self.is_held:
            raise RuntimeError(
                f"{self._name} is closed, or belongs to the process that this one was forked from. "
                f"Make another {self._user} with a file of its own."
            )
        try:
            is_same = os.path.samestat(os.fstat(self._descriptors[0]), self.path.stat())
        except OSError:
            is_same = False
        if not is_same:
            raise RuntimeError(
                f"{self._name} was replaced, renamed or deleted while it was open, so that what is "
                "written now would be lost. Put the file back, or start again with what is there."
            )

    def close(self) -> None:
        """Give the lock back; closing it twice is no error."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __del__(self) -> None:
        self.close()

    def _open(self, path: pathlib.Path) -> None:
        """Open a file for writing, made if it does not exist."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._descriptors.append(os.open(path, flags, 0o666))

    def _lock(self) -> None:
        """Lock the open file, or fail at once."""
        if sys.platform == "win32":
            os.lseek(self._descriptors[0], _BYTE, os.SEEK_SET)
            msvcrt.locking(self._descriptors[0], msvcrt.LK_NBLCK, 1)
        elif hasattr(fcntl, "F_OFD_SETLK"):
            whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
            fcntl.fcntl(self._descriptors[0], fcntl.F_OFD_SETLK, whole)
        else:
            self._open(lock_path(self.path))
            fcntl.flock(self._descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget() -> None:
    """Close all locks in a child, which would otherwise keep them when its parent ends."""
    for lock in _HELD:
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
