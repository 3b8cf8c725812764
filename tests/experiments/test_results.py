import numpy as np
import pandas as pd
import pytest

from laplace_al.experiments.results import ResultsFile

KEYS = ["strategy", "seed"]
TABLE = pd.DataFrame({"n_labels": [5, 15, 25], "score": [np.nan, 1 / 3, 0.1 + 0.2]})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.csv"


def keep(path, *names):
    with ResultsFile(path, KEYS) as results:
        for name in names:
            results.append(name, "f00", TABLE)


def kept(path, *names):
    with ResultsFile(path, KEYS) as results:
        return [name in results for name in names]


class TestResultsFile:
    def test_numbers_come_back_bit_for_bit(self, path):
        name = 'random, "or so"', 3
        keep(path, name)
        with ResultsFile(path, KEYS) as results:
            pd.testing.assert_frame_equal(results.get(name, "f00"), TABLE, check_exact=True)

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
    @pytest.mark.parametrize("n_before", [0, 1])
    def test_a_run_that_cannot_be_written_leaves_the_file(self, path, monkeypatch, error, n_before):
        def fail(_):
            raise error

        with ResultsFile(path, KEYS) as results:
            for i in range(n_before):
                results.append(("a", i), "f00", TABLE)
            before = path.read_bytes() if n_before else b""
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", fail)
                with pytest.raises(type(error)):
                    results.append(("b", 0), "f00", TABLE)
            assert path.read_bytes() == before
            assert ("b", 0) not in results
            results.append(("c", 0), "f00", TABLE)
        assert kept(path, ("b", 0), ("c", 0)) == [False, True]

    def test_it_is_a_tidy_csv_file(self, path):
        keep(path, ("a", 0), ("b", 0))
        frame = pd.read_csv(path)
        assert frame.columns.tolist() == ["strategy", "seed", "n_labels", "score", "run"]
        assert frame.strategy.tolist() == 3 * ["a"] + 3 * ["b"]
        assert frame.run[:3].tolist() == ["f00 1/3", "f00 2/3", "f00 3/3"]

    def test_cut_at_any_byte(self, path, monkeypatch):
        monkeypatch.setattr("os.fsync", lambda descriptor: None)  # hundreds of them take seconds
        names = ("a", 0), ("b\N{GREEK SMALL LETTER BETA}", 0)
        keep(path, *names)
        content = path.read_bytes()
        header, *ends = content.index(b"\n") + 1, content.index(b"3/3\n") + 4, len(content)
        for size in range(len(content)):
            path.write_bytes(content[:size])
            assert kept(path, *names) == [size >= end for end in ends]
            whole = max(end for end in (0, header, *ends) if end <= size)
            assert path.read_bytes() == content[:whole]
            keep(path, *(name for name, end in zip(names, ends, strict=True) if size < end))
            assert path.read_bytes() == content

    def test_a_run_made_with_other_settings(self, path):
        keep(path, ("a", 0))
        with (
            ResultsFile(path, KEYS) as results,
            pytest.raises(
                ValueError, match="has the run strategy='a', seed=0, but made with other"
            ),
        ):
            results.get(("a", 0), "f01")

    def test_other_columns(self, path):
        keep(path, ("a", 0))
        before = path.read_bytes()
        with (
            ResultsFile(path, KEYS) as results,
            pytest.raises(ValueError, match=r"has the columns .* the run strategy='b', seed=0 has"),
        ):
            results.append(("b", 0), "f00", TABLE.rename(columns={"score": "score_f1"}))
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "content", ["notes", "notes\n", "a,b\n1,2\n", "strategy,seed,x\na,0,1\n"]
    )
    def test_a_file_of_something_else(self, path, content):
        path.write_text(content)
        with pytest.raises(ValueError, match="is not a file of results: it begins with"):
            kept(path)
        assert path.read_text() == content

    @pytest.mark.parametrize(
        ("old", "new"), [("f00 2/3", "f00 3/3"), ("f00 2/3", ""), (",15,", ",15,,"), ("15", "x")]
    )
    def test_a_damaged_file(self, path, old, new):
        keep(path, ("a", 0), ("b", 0))
        damaged = path.read_text().replace(old, new, 1)
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is damaged in line 3"):
            kept(path)
        assert path.read_text() == damaged

    def test_one_at_a_time(self, path):
        with (
            ResultsFile(path, KEYS),
            pytest.raises(RuntimeError, match="in use by another call"),
            ResultsFile(path, KEYS),
        ):
            pass
        keep(path, ("a", 0))

    def test_it_is_free_again_after_an_error(self, path):
        path.write_text("notes")
        for _ in range(2):
            with pytest.raises(ValueError, match="is not a file of results"):
                kept(path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
            kept(tmp_path / "nowhere" / "results.csv")
