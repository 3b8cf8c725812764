import contextlib
import json
import os
import stat
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from laplace_al.storage import archive
from laplace_al.storage.archive import read_archive, write_archive

TENSORS = {"a": torch.linspace(-1, 1, 6).reshape(2, 3).mT, "b": torch.zeros(0, 2).double()}
DOCUMENT = {"name": "Ünïcode", "numbers": [1, 0.1, None, True]}


@pytest.fixture
def path(tmp_path):
    write_archive(tmp_path / "one.safetensors", DOCUMENT, TENSORS)
    return tmp_path / "one.safetensors"


def test_a_round_trip(path):
    document, tensors = read_archive(str(path))
    assert document == DOCUMENT
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert tensors["a"].stride() == TENSORS["a"].stride()


def test_nothing_else_is_left_in_the_folder(path):
    write_archive(path, {}, {})
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    assert read_archive(path) == ({}, {})


def test_a_link_stays_a_link(path):
    link = path.parent / "link"
    link.symlink_to(path)
    write_archive(link, {"new": 1}, {})
    assert link.is_symlink()
    assert read_archive(path)[0] == {"new": 1}


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_leaves_the_file_as_it_was(path, monkeypatch, step, error):
    def fail(*_):
        raise error

    before = path.read_bytes()
    if step == "fsync":
        monkeypatch.setattr(archive.os, "fsync", fail)
    elif step == "replace":
        monkeypatch.setattr(archive.pathlib.Path, "replace", fail)
    else:
        monkeypatch.setattr(archive, "save", lambda arrays, metadata: fail())
    with pytest.raises(type(error)):
        write_archive(path, {"new": 1}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_it_is_as_readable_as_other_files(path):
    (path.parent / "other").write_bytes(b"")
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
class TestPermissions:
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o400, 0o4755])
    @pytest.mark.parametrize("through", ["its name", "a link"])
    def test_those_of_the_file_before_stay(self, path, mode, through):
        path.chmod(mode)
        link = path.parent / "link"
        link.symlink_to(path.name)
        write_archive(path if through == "its name" else link, {"new": 1}, {})
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert link.is_symlink()
        assert read_archive(path)[0] == {"new": 1}

    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    def test_a_new_file_has_those_of_the_umask(self, tmp_path, umask):
        before = os.umask(umask)
        try:
            write_archive(tmp_path / "new", {}, {})
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask

    def test_nobody_else_can_read_it_meanwhile(self, path, monkeypatch):
        modes = []

        def fsync(descriptor):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

        path.chmod(0o600)
        monkeypatch.setattr(archive.os, "fsync", fsync)
        monkeypatch.setattr(archive, "_keep_owner", lambda *_: modes.append(None))
        write_archive(path, {"new": 1}, {})
        assert modes[:2] == [None, 0o600]

    @pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="gives files away")
    def test_so_does_the_owner(self, path):
        os.chown(path, 65534, 65533)
        path.chmod(0o640)
        write_archive(path, {"new": 1}, {})
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65533, 0o640)

    def test_where_the_owner_cannot_stay(self, path, monkeypatch):
        """Its group would be another one, which was not to read it."""
        path.chmod(0o664)

        def refuse(*_):
            raise PermissionError

        before = path.stat()
        other = os.stat_result((*before[:5], before.st_gid + 1, *before[6:]))
        monkeypatch.setattr(archive.os, "chown", refuse)
        archive._keep_owner(path, other)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
class TestStreams:
    def test_a_pipe_is_written_to(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with ThreadPoolExecutor(1) as pool:
            content = pool.submit(pipe.read_bytes)
            write_archive(pipe, DOCUMENT, TENSORS)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        (tmp_path / "copy").write_bytes(content.result())
        assert read_archive(tmp_path / "copy")[0] == DOCUMENT

    def test_a_device_stays_a_device(self):
        before = os.stat("/dev/null")
        write_archive("/dev/null", DOCUMENT, TENSORS)
        assert os.stat("/dev/null")[:3] == before[:3]

    @pytest.mark.parametrize("to", ["a pipe", "a file"])
    @pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    def test_standard_output(self, tmp_path, to, name):
        if not os.path.exists(name):
            pytest.skip(f"there is no {name}")
        code = (
            "import sys; from laplace_al.storage.archive import replace_file; "
            f"replace_file({name!r}, b'content')"
        )
        with (tmp_path / "out").open("wb") as out:
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdout=subprocess.PIPE if to == "a pipe" else out,
                check=True,
            )
            assert os.path.samestat(os.fstat(out.fileno()), os.stat(tmp_path / "out"))
        assert (done.stdout or (tmp_path / "out").read_bytes()) == b"content"
        assert [other.name for other in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist; make it first"):
        write_archive(tmp_path / "no" / "file", {}, {})
    (tmp_path / "dangling").symlink_to(tmp_path / "no" / "file")
    with pytest.raises(FileNotFoundError, match=r"the folder .*no' does not exist; make it first"):
        write_archive(tmp_path / "dangling", {}, {})
    with pytest.raises(IsADirectoryError):
        write_archive(tmp_path, {}, {})
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_archive(tmp_path / "no such file")
    with pytest.raises(IsADirectoryError):
        read_archive(tmp_path)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place, change, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "one"
    write_archive(path, DOCUMENT, TENSORS)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= change
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        document, tensors = read_archive(path)
        # a name of the header that nobody reads, or a space
        assert document == DOCUMENT
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_no_cut_goes_unnoticed(share, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "one"
    write_archive(path, DOCUMENT, TENSORS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="is cut short, or no safetensors file"):
        read_archive(path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "other"}, "something else: its header has format='other'"),
        ({"version": "2"}, "of version '2', newer than 1.*Upgrade laplace_al"),
        ({"version": "-1"}, "of version '-1'"),
        ({"sha256": "0" * 64}, "is damaged: its content does not have the SHA-256"),
        ({"content": "{}"}, "is damaged"),
        ({"content": "[]", "sha256": None}, "not written by laplace_al: a malformed header"),
        ({"content": "{", "sha256": None}, "not written by laplace_al"),
        ({"content": '{"orders": {}}', "sha256": None}, "not written by laplace_al"),
        ({"content": '{"orders": {"a": [0]}}', "sha256": None}, "not written by laplace_al"),
        ({"content": "[" * 100_000, "sha256": None}, "not written by laplace_al"),
    ],
)
def test_headers_of_others(path, changes, match):
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"] | changes
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in TENSORS.items()}
    if changes.get("sha256", "") is None:
        header["sha256"] = archive._digest(header["content"], arrays)
    save_file(arrays, path, metadata=header)
    with pytest.raises(ValueError, match=match):
        read_archive(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04cos\nsystem\n", b"\xff" * 100])
def test_other_files(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match="no safetensors file"):
        read_archive(tmp_path / "other")


def test_a_file_without_a_header(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="something else: its header has format=None"):
        read_archive(tmp_path / "other")


@pytest.mark.parametrize("kind", ["BF16", "F8_E5M2"])
def test_numbers_that_numpy_has_not(tmp_path, kind):
    array = {"dtype": kind, "shape": [2], "data_offsets": [0, 4 if kind == "BF16" else 2]}
    header = {"__metadata__": {"format": "laplace_al", "version": "1"}, "a": array}
    content = json.dumps(header).encode()
    (tmp_path / "other").write_bytes(struct.pack("<Q", len(content)) + content + b"\0" * 4)
    with pytest.raises(ValueError, match=r"^path='.*other'"):
        read_archive(tmp_path / "other")
