"""Tensors and a JSON document in one file: written whole or not at all, read without running code.

A safetensors file, which any reader of that format opens. Its header holds the document, the
version of the layout and a SHA-256 of everything, which tells damage; it is no signature.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import stat
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from laplace_al._common.stored import Stored
from laplace_al._common.typing import Path

_FORMAT = "laplace_al"
_VERSION = 1


def write_archive(path: Path, document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a document that JSON can hold and tensors on any device, as :func:`replace_file` does.

    Values, dtypes, shapes and the order of dimensions in memory are kept.
    """
    stored = {name: Stored.of(tensor) for name, tensor in tensors.items()}
    arrays = {name: one.array for name, one in stored.items()}
    orders = {name: one.order for name, one in stored.items()}
    text = json.dumps({"document": document, "orders": orders})
    header = {"format": _FORMAT, "version": str(_VERSION), "content": text}
    header["sha256"] = _digest(text, arrays)
    replace_file(path, save(arrays, metadata=header))


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the document and the tensors, on the CPU, of a file of :func:`write_archive`.

    Raises ValueError if the file is of something else, of a newer version or damaged, OSError if it
    cannot be read.
    """
    path = pathlib.Path(path)
    with path.open("rb"):  # the operating system's own word on what cannot be opened
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            _check_header(header, path)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError, TypeError) as error:  # of types that NumPy has not
        raise ValueError(
            f"path={str(path)!r} is cut short, or no safetensors file of numbers that NumPy has: "
            f"{error}. Save it again."
        ) from error
    text = header.get("content", "")
    if header.get("sha256") != _digest(text, arrays):
        raise ValueError(
            f"path={str(path)!r} is damaged: its content does not have the SHA-256 that it was "
            "saved with. Save it again, or take a copy that is whole."
        )
    try:
        content = json.loads(text)
        tensors = {
            name: Stored(array, content["orders"][name], "cpu").tensor()
            for name, array in arrays.items()
        }
        return content["document"], tensors
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"path={str(path)!r} was not written by laplace_al: a malformed header, {error!r}."
        ) from error


def _check_header(header: dict[str, str], path: pathlib.Path) -> None:
    """Refuse files of something else and of newer versions."""
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"path={str(path)!r} is a safetensors file of something else: its header has "
            f"format={header.get('format')!r}, not {_FORMAT!r}. Name a file that save wrote."
        )
    version = header.get("version", "")
    if not version.isdecimal() or int(version[:9]) > _VERSION:
        raise ValueError(
            f"path={str(path)!r} is of version {version[:9]!r}, newer than {_VERSION}, the "
            "newest that this laplace_al reads. Upgrade laplace_al."
        )


def _digest(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of the document and of all arrays, with their names, dtypes and shapes."""
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of another at once, and on the disk before returning.

    The file keeps the permissions of the one before it, and its owner where the system allows it;
    a new one has those that the umask leaves. A link stays a link. What is no file, such as a pipe
    or ``/dev/stdout``, is written to. Raises OSError, with what was there as before, if it fails.
    """
    path = pathlib.Path(path)
    before = path.stat() if path.exists() else None
    # of a process: who has it open would not see another one in its place
    is_stream = os.path.realpath(path.parent).startswith(("/proc/", "/dev/fd"))
    is_stream |= path.is_symlink() and path.parent == pathlib.Path("/dev")
    if before is not None and (is_stream or not stat.S_ISREG(before.st_mode)):
        with path.open("ab") as stream:
            stream.write(content)
        return
    target = pathlib.Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"path={str(path)!r}: the folder {str(target.parent)!r} does not exist; make it first."
        )
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(8)}.tmp")
    mode = 0o666 if before is None else before.st_mode & 0o600
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            if before is not None:
                _keep_owner(temporary, before)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _keep_owner(path: pathlib.Path, before: os.stat_result) -> None:
    """Give a file the owner, the group and the permissions of another, where that is allowed."""
    mode = stat.S_IMODE(before.st_mode)
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, before.st_gid)
        if path.stat().st_gid != before.st_gid:
            mode &= ~stat.S_IRWXG  # of another group
        with contextlib.suppress(PermissionError):
            os.chown(path, before.st_uid, -1)
    path.chmod(mode)
