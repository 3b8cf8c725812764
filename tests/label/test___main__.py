import contextlib
import csv
import os
import pathlib
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import types
import urllib.parse
import urllib.request

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from laplace_al import LaplaceUpdateClassifier
from laplace_al.label.__main__ import STRATEGIES, features_for, main, make_parser
from laplace_al.label.embedding import EmbeddingError
from laplace_al.label.items import ImageFolder, open_items
from laplace_al.label.learner import pool_of
from laplace_al.label.session import Session
from laplace_al.loop.journal import Journal


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with texts to label."""
    (tmp_path / "t.csv").write_text("text,n\nred,1\ngreen,2\nblue,4\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments, capsys):
    """The message of the command about arguments that it refuses."""
    with pytest.raises(SystemExit) as got:
        main([*arguments.split(), "--no-browser"])
    assert got.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m laplace_al.label: error: ")
    assert said.count("\n") == 1
    return said.split("error: ")[1]


class TestArguments:
    def test_what_is_refused(self, folder, capsys):
        def said(arguments):
            return refused(arguments, capsys)

        assert "the following arguments are required: --journal" in said("t.csv")
        assert "must be a folder of images" in said("no.csv --journal l")
        assert "--text must name columns" in said("t.csv --journal l --text no")
        assert "invalid choice: 'best'" in said("t.csv --journal l --strategy best")
        assert "not allowed with" in said("t.csv --journal l --features x.npy --embed a:b")
        assert "--cache stores the result of --embed" in said("t.csv --journal l --cache x.npy")
        assert "cannot be read as features" in said("t.csv --journal l --features x.npy")
        assert "A label must be a text" in said("t.csv --journal l --classes " + "x" * 201)
        assert "does not exist: there is nothing to export" in said("t.csv --journal l --export e")
        assert "the folder 'no' does not exist" in said("t.csv --journal no/l")
        (folder / "t.csv").write_bytes("text,n\nvert,1\nmélangé,2\n".encode("latin-1"))
        assert "'t.csv' is not in UTF-8: byte 0xe9 in line 3" in said("t.csv --journal l")
        assert "got 'latn'" in said("t.csv --journal l --encoding latn")
        assert "to export" in said("t.csv --journal l --encoding latin-1 --export e")
        assert sorted(path.name for path in folder.iterdir()) == ["t.csv"]

    def test_a_journal_in_use(self, folder, capsys):
        items = open_items("t.csv")
        session = Session(items, np.eye(3), "l.sqlite")
        said = refused("t.csv --journal l.sqlite", capsys)
        assert said.startswith("--journal 'l.sqlite' is in use, by the page in another terminal")
        session.close()

    def test_a_port_in_use(self, folder, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = refused(f"t.csv --journal l.sqlite --port {port}", capsys)
        assert said.startswith(f"--port {port} cannot be used: ")
        assert "in use. Give another" in said

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--export", "--export must name a file, not a folder; got ''"),
            ("--journal", "--journal must name a file, not a folder; got ''"),
            ("--embed", "--embed must be MODULE:CALLABLE"),
            ("--features", "Features come from .npy, .npz or .csv; got ''"),
            ("--cache", "--cache stores the result of --embed"),
            ("--embed=math:sqrt --cache", "--cache must end in .npy; got ''"),
        ],
    )
    def test_empty_ones_are_not_left_out(self, folder, capsys, monkeypatch, option, message):
        monkeypatch.setattr(
            "laplace_al.label.__main__.serve", lambda *args, **kwargs: pytest.fail("It started.")
        )
        arguments = ["t.csv", "--journal", "l", *option.split(), "", "--no-browser"]
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert message in capsys.readouterr().err
        assert sorted(path.name for path in folder.iterdir()) == ["t.csv"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--cache", "no/c.npy"], "--cache 'no/c.npy': the folder 'no' does not exist"),
            (["--port", "99999"], "--port: must be an integer from 0 to 65535; got '99999'"),
            (["--port", "-1"], "--port: must be an integer from 0 to 65535; got '-1'"),
            (["--port", "http"], "--port: must be an integer from 0 to 65535; got 'http'"),
            (["--random-state", "-1"], "--random-state: must be an integer from 0 to 4294967295"),
            (["--classes", ""], "A label must be a text of one line"),
            (["--annotator", "Zo\udceb"], "annotator must be a text that UTF-8 has a form for"),
            (["--journal", "no/l"], "the folder 'no' does not exist"),
            (
                ["--journal", "others.sqlite"],
                "--journal 'others.sqlite' holds labels of other items: ",
            ),
        ],
    )
    def test_what_is_refused_before_anything_is_embedded(
        self, folder, capsys, monkeypatch, arguments, message
    ):
        Journal("others.sqlite", [[0.0], [1.0]]).close()
        before = sorted(folder.iterdir())
        module = types.SimpleNamespace(f=lambda items: pytest.fail("It was embedded."))
        monkeypatch.setitem(sys.modules, "embedding_of_mine", module)
        with pytest.raises(SystemExit, match="2"):
            main(["t.csv", "--journal", "l", "--embed", "embedding_of_mine:f", *arguments])
        assert message in capsys.readouterr().err
        assert sorted(folder.iterdir()) == before

    def test_a_port_in_use_is_refused_before_anything_is_embedded(
        self, folder, capsys, monkeypatch
    ):
        module = types.SimpleNamespace(f=lambda items: pytest.fail("It was embedded."))
        monkeypatch.setitem(sys.modules, "embedding_of_mine", module)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = refused(f"t.csv --journal l --embed embedding_of_mine:f --port {port}", capsys)
        assert said.startswith(f"--port {port} cannot be used: ")

    def test_failures_of_the_user_keep_their_traceback(self, folder):
        with pytest.raises(EmbeddingError, match="math:sqrt failed on the 3 rows"):
            main(["t.csv", "--journal", "l", "--embed", "math:sqrt", "--no-browser"])

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_strategies(self, folder, name):
        items = open_items("t.csv")
        session = Session(items, np.eye(3), "l.sqlite", strategy=STRATEGIES[name]())
        for label in ("a", "b", "a"):
            session.label(session.state()["item"]["position"], label)
        assert session.state()["item"] is None
        session.close()


def test_ctrl_c_before_the_page(folder, capsys, monkeypatch):
    def interrupt(items):
        raise KeyboardInterrupt

    module = types.SimpleNamespace(f=interrupt)
    monkeypatch.setitem(sys.modules, "embedding_of_mine", module)
    with pytest.raises(SystemExit, match="130"):
        main(["t.csv", "--journal", "l", "--embed", "embedding_of_mine:f", "--no-browser"])
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_twice(folder, capsys, monkeypatch):
    def interrupt(session):
        session.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "accuracy", interrupt)
    monkeypatch.setattr(
        "laplace_al.label.__main__.serve", lambda server, open_browser: server.server_close()
    )
    with pytest.raises(SystemExit, match="130"):
        main(ARGUMENTS)
    assert capsys.readouterr() == ("", "")


class TestFeaturesFor:
    def features(self, arguments):
        options = make_parser().parse_args(["t.csv", "--journal", "l", *arguments.split()])
        return features_for(open_items("t.csv", text=options.text), options)

    def test_sources(self, folder):
        np.save("x.npy", np.eye(3))
        assert self.features("--features x.npy")[1] == "x.npy"
        assert self.features("--columns n")[0].shape == (3, 1)
        assert "tf-idf" in self.features("--text text")[1]
        assert "numeric columns" in self.features("")[1]

    def test_an_embedding_is_kept(self, folder, monkeypatch):
        (folder / "embedding_of_mine.py").write_text(
            "def f(x):\n    return [[len(t)] for t in x]\n"
        )
        monkeypatch.syspath_prepend(folder)
        arguments = "--text text --embed embedding_of_mine:f --cache c.npy"
        features, note = self.features(arguments)
        np.testing.assert_array_equal(features, [[3], [5], [4]])
        assert note == "embedding_of_mine:f"
        (folder / "embedding_of_mine.py").unlink()
        np.testing.assert_array_equal(self.features(arguments)[0], features)


def test_export(folder, capsys):
    items = open_items("t.csv", text="text")
    session = Session(items, np.eye(3), "l.sqlite", annotator="ann")
    session.label(2, "cold")
    session.label(0, "cold")
    session.relabel(0, "warm")
    session.skip(1)
    expected = session.export()
    session.close()
    main(["t.csv", "--text", "text", "--journal", "l.sqlite", "--export", "e.csv"])
    assert (folder / "e.csv").read_text() == expected
    with open("e.csv") as file:
        assert [(row["name"], row["label"]) for row in csv.DictReader(file)] == [
            ("blue", "cold"),
            ("red", "warm"),
        ]
    assert capsys.readouterr().out == "2 labels written to e.csv.\n"


class TestWhereLabelsAreExported:
    ARGUMENTS = "t.csv --journal l.sqlite --features x.csv"

    @pytest.fixture
    def labelled(self, folder):
        """The folder with a label in a journal, a features file and links to all files."""
        session = Session(open_items("t.csv"), np.eye(3), "l.sqlite")
        session.label(0, "warm")
        session.close()
        (folder / "x.csv").write_text("a\n1\n2\n3\n")
        (folder / "l.sqlite.lock").touch()  # where the system cannot lock the journal itself
        (folder / "links").mkdir()
        for path in [path for path in folder.iterdir() if path.is_file()]:
            (folder / "links" / path.name).symlink_to(path)
        return folder

    @pytest.mark.parametrize(
        ("name", "option"),
        [
            ("t.csv", "IMAGES_OR_CSV"),
            ("l.sqlite", "--journal"),
            ("l.sqlite.lock", "--journal, its lock"),
            ("x.csv", "--features"),
        ],
    )
    @pytest.mark.parametrize(
        "spelling", ["{name}", "{folder}/{name}", "links/../{name}", "links/{name}"]
    )
    def test_never_over_what_is_read(self, labelled, capsys, name, option, spelling):
        before = (labelled / name).read_bytes()
        target = spelling.format(folder=labelled, name=name)
        said = refused(f"{self.ARGUMENTS} --export {target}", capsys)
        assert f"is the file of {option}, which it would overwrite; name another" in said
        assert (labelled / name).read_bytes() == before

    def test_never_over_what_will_be_there(self, labelled, capsys):
        (labelled / "l.sqlite.lock").unlink()
        refused("t.csv --journal l.sqlite --export l.sqlite.lock", capsys)
        refused("t.csv --journal l.sqlite --embed a:b --cache c.npy --export ./c.npy", capsys)
        assert not {"l.sqlite.lock", "c.npy"} & {path.name for path in labelled.iterdir()}

    def test_a_folder_that_is_missing(self, labelled, capsys):
        assert "the folder 'no' does not exist" in refused(
            f"{self.ARGUMENTS} --export no/e.csv", capsys
        )

    def test_whole_or_not_at_all(self, labelled, capsys, monkeypatch):
        def fail(*args):
            raise OSError("the disk is full")

        (labelled / "e.csv").write_text("before")
        monkeypatch.setattr("os.fsync", fail)
        before = sorted(labelled.iterdir())
        assert "the disk is full" in refused(f"{self.ARGUMENTS} --export e.csv", capsys)
        assert (labelled / "e.csv").read_text() == "before"
        assert sorted(labelled.iterdir()) == before

    @pytest.mark.skipif(os.name == "nt", reason="pipes have no path there")
    def test_a_pipe_stays_one(self, labelled):
        os.mkfifo("pipe")
        reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        main(["t.csv", "--journal", "l.sqlite", "--export", "pipe"])
        assert os.read(reader, 1000).startswith(b"position,name,label")
        os.close(reader)


def test_export_leaves_the_journal_free(folder):
    items = open_items("t.csv")
    Session(items, np.eye(3), "l.sqlite").close()
    main(["t.csv", "--journal", "l.sqlite", "--export", "e.csv"])
    Journal("l.sqlite", pool_of(items)).close()


class TestResults:
    ARGUMENTS = "t.csv --text text --journal l.sqlite --features x.npy"

    @pytest.fixture
    def session(self, folder):
        """A page that runs, with two of six items labelled and one skipped."""
        names = ["red", "green", "blue", "=1+1", "grey", "black"]
        lines = ["text,n", *(f"{name},{i}" for i, name in enumerate(names))]
        (folder / "t.csv").write_text("\n".join(lines))
        np.save("x.npy", np.array([[5.0], [6.0], [9.0], [8.5], [5.5], [9.0]]))
        session = Session(open_items("t.csv", text="text"), np.load("x.npy"), "l.sqlite")
        session.label(2, "cold")
        session.label(0, "warm")
        session.skip(1)
        yield session
        session.close()

    def run(self, options):
        main([*self.ARGUMENTS.split(), *options.split()])

    def test_while_the_page_runs(self, session, capsys):
        self.run("--export e.csv --predict p.csv --save m.safetensors")
        assert capsys.readouterr().out == (
            "2 labels written to e.csv.\n"
            "6 rows with a label written to p.csv: 2 labels given, 4 predicted.\n"
            "The model of 2 labels saved to m.safetensors.\n"
        )
        assert pathlib.Path("e.csv").read_text() == session.export()
        session.label(1, "warm")  # the page goes on

    def test_every_item_has_a_label(self, session):
        self.run("--predict p.csv")
        table = pd.read_csv("p.csv")
        assert table.position.tolist() == list(range(6))
        assert table.name.tolist() == session.items.names
        assert table.label.tolist() == ["warm", "warm", "cold", "cold", "warm", "cold"]
        expected = ["given", "predicted", "given", "predicted", "predicted", "predicted"]
        assert table.source.tolist() == expected
        assert table.probability.between(0.5, 1).all()

    def test_a_given_label_stays_whatever_the_model_says(self, session):
        session.relabel(2, "warm")
        session.label(3, "cold")
        session.label(5, "cold")
        self.run("--predict p.csv")
        table = pd.read_csv("p.csv")
        assert (table.label[2], table.source[2]) == ("warm", "given")
        assert table.probability[2] < 0.5

    def test_the_model_predicts_what_was_written(self, session):
        self.run("--save m.safetensors --predict p.csv")
        model = LaplaceUpdateClassifier.load("m.safetensors")
        table = pd.read_csv("p.csv")
        np.testing.assert_array_equal(model.predict(np.load("x.npy")), table.label)
        np.testing.assert_allclose(
            model.predict_proba(np.load("x.npy")).max(axis=1), table.probability, rtol=1e-12
        )

    def test_plain_features_are_of_these_items_alone(self, session, capsys):
        main(["t.csv", "--text", "text", "--journal", "l.sqlite", "--save", "m.safetensors"])
        assert "for others, give --embed or --features." in capsys.readouterr().out

    def test_a_model_needs_two_classes(self, session, capsys):
        session.relabel(2, "warm")
        said = refused(f"{self.ARGUMENTS} --predict p.csv", capsys)
        assert said.startswith("A model needs labels of two classes at least; the journal has 2")
        assert not pathlib.Path("p.csv").exists()

    def test_a_journal_of_something_else(self, session, capsys):
        pathlib.Path("no.sqlite").write_text("no database, but long enough for its header to be")
        said = refused("t.csv --journal no.sqlite --export e.csv", capsys)
        assert said.startswith("--journal 'no.sqlite' cannot be read: ")
        with contextlib.closing(sqlite3.connect("other.sqlite")) as connection:
            connection.execute("CREATE TABLE a (b)")
        said = refused("t.csv --journal other.sqlite --export e.csv", capsys)
        assert said.startswith("--journal 'other.sqlite' is a database of something else")
        pathlib.Path("t.csv").write_text("text\nother\n")
        said = refused("t.csv --journal l.sqlite --export e.csv", capsys)
        assert said.startswith("--journal 'l.sqlite' holds labels of other items: ")

    @pytest.mark.parametrize("option", ["--export", "--predict", "--save"])
    def test_never_over_an_image_of_the_pool_or_each_other(self, folder, capsys, option):
        (folder / "images").mkdir()
        Image.new("L", (2, 2)).save("images/a.png")
        before = (folder / "images/a.png").read_bytes()
        said = refused(f"images --journal l.sqlite {option} images/../images/a.png", capsys)
        assert "is the file of image 'images/a.png', which it would overwrite" in said
        other = "--predict" if option == "--export" else "--export"
        assert "which it would overwrite" in refused(
            f"images --journal l.sqlite {option} x {other} ./x", capsys
        )
        assert (folder / "images/a.png").read_bytes() == before


def test_what_is_left_out_is_told(folder, capsys):
    (folder / "p").mkdir()
    for i in range(4):
        Image.new("L", (2, 2), 60 * i).save(f"p/{i}.tif")
    for i in range(30):
        (folder / f"p/b{i:02d}.png").write_bytes(b"not an image")
    (folder / "p/notes.txt").touch()
    session = Session(ImageFolder("p"), np.eye(34), "l.sqlite")
    session.label(0, "dark")
    session.label(3, "light")
    session.close()
    main(["p", "--journal", "l.sqlite", "--predict", "p.csv"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Files that are not taken for images, by their endings: 1 .txt."
    assert lines[1].startswith("Left out: 'b00.png': 'p/b00.png' cannot be read as an image: ")
    assert lines[21:] == [
        "Left out: 10 images more.",
        "4 images with a label written to p.csv: 2 labels given, 2 predicted.",
    ]
    table = pd.read_csv("p.csv")
    assert table.name.tolist() == ["0.tif", "1.tif", "2.tif", "3.tif"]
    assert table.label.tolist() == ["dark", "dark", "light", "light"]


def test_a_name_does_not_speak_to_the_terminal(folder, capsys):
    (folder / "t.csv").write_text("a\x1b[2J\n1\n")
    said = refused("t.csv --journal l --text no", capsys)
    assert "It has a\\x1b[2J." in said


ENDING = """
1 label in my labels.sqlite. To go on:
  python -m laplace_al.label t.csv --journal 'my labels.sqlite' --classes 'a b'
"""
ARGUMENTS = ["t.csv", "--journal", "my labels.sqlite", "--classes", "a b"]


def label_one(url):
    """Label an item as the page does."""
    body = b'{"position": 1, "label": "a b"}'
    with urllib.request.urlopen(f"{url}label", data=body, timeout=30) as answer:
        assert answer.status == 200


@pytest.fixture
def handlers():
    """Signal handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.skipif(os.name == "nt", reason="a process there cannot interrupt itself")
def test_a_run(folder, monkeypatch, capsys, handlers):
    paths = []

    def visit(address):
        assert address.startswith("file:///")
        assert "http" not in address
        paths.append(pathlib.Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path)))
        assert stat.S_IMODE(paths[0].stat().st_mode) == 0o600
        assert stat.S_IMODE(paths[0].parent.stat().st_mode) == 0o700
        label_one(re.search(r"url=([^\"]+)", paths[0].read_text())[1])
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", visit)
    main(ARGUMENTS)
    lines = capsys.readouterr().out.splitlines(keepends=True)
    assert not paths[0].parent.exists()
    assert lines[0] == "3 rows, 0 of them labelled.\n"
    assert lines[1] == "Features: the numeric columns, standardised: n.\n"
    assert lines[2].startswith("The page: http://127.0.0.1:")
    assert "".join(lines[4:]) == ENDING
    with sqlite3.connect("my labels.sqlite") as connection:
        assert connection.execute("SELECT position, label FROM labels").fetchall() == [(1, "a b")]
    connection.close()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a process there cannot be interrupted alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_ends_cleanly(folder, number):
    command = [sys.executable, "-m", "laplace_al.label", *ARGUMENTS, "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        label_one(lines[2].removeprefix("The page: ").strip())
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out == ENDING.replace("'a b'", "'a b' --no-browser")
