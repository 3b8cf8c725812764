import contextlib
import json
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from laplace_al import archive
from laplace_al.archive import read_archive, write_archive

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


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist; make it first"):
        write_archive(tmp_path / "no" / "file", {}, {})
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
    with pytest.raises(ValueError, match="is cut short or no safetensors file"):
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
