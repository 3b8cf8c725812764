"""One user at a time of a file that others may read."""

import pathlib
import sqlite3


def lock_path(path: pathlib.Path) -> pathlib.Path:
    """Where the lock of a file lies.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Path

    Examples
    --------
    >>> lock_path(pathlib.Path("labels.sqlite")).name
    'labels.sqlite.lock'
    """
    return path.with_name(path.name + ".lock")


def locked(path: pathlib.Path, argument: str, user: str) -> sqlite3.Connection:
    """A connection to ``<path>.lock`` that nobody else can have at the same time.

    The file itself stays readable; SQLite gives the lock up when the process ends, however it ends.

    Parameters
    ----------
    path : Path
    argument, user : str
        What the file and who uses it are called in messages.

    Returns
    -------
    sqlite3.Connection
        To be closed.

    Raises
    ------
    RuntimeError
        If somebody else has it.
    OSError
        If it cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = locked(pathlib.Path(folder, "runs.csv"), "results", "call")
    ...     lock.close()
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{argument}={str(path)!r}: the folder {str(path.parent)!r} does not exist; make it "
            "first."
        )
    lock = None
    try:
        lock = sqlite3.connect(lock_path(path), timeout=0, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        if lock is not None:
            lock.close()
        if "locked" not in str(error):
            raise OSError(f"{argument}={str(path)!r} cannot be locked: {error}.") from error
        raise RuntimeError(
            f"{argument}={str(path)!r} is in use by another {user}, of this process or another "
            "one. Close that first, or name another file."
        ) from error
    return lock
