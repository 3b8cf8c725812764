import pytest

from laplace_al.locks import locked


def test_one_at_a_time(tmp_path):
    path = tmp_path / "a%20b?.csv"
    path.write_text("readable")
    lock = locked(path, "results", "call")
    assert (tmp_path / "a%20b?.csv.lock").exists()
    with pytest.raises(RuntimeError, match=r"results=.*in use by another call.*name another file"):
        locked(path, "results", "call")
    assert path.read_text() == "readable"
    lock.close()
    locked(path, "results", "call").close()


def test_what_cannot_be_locked_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"journal=.*folder.*make it first"):
        locked(tmp_path / "missing" / "file", "journal", "ActiveLearner")
    (tmp_path / "file.lock").mkdir()
    with pytest.raises(OSError, match=r"journal=.*cannot be locked"):
        locked(tmp_path / "file", "journal", "ActiveLearner")
