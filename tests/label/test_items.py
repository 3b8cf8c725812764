import os
import pathlib
import sys

import pytest

from laplace_al.label.items import ImageFolder, Table, open_items


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.PNG", "b/10.jpg", "a.webp", "notes.txt", ".hidden/x.png", "b/._y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,text,size,photo\n007,"Hi, you",1.50,p/1.png\n8,NA,,p/2.jpg\n')
    (tmp_path / "p").mkdir()
    (tmp_path / "p/1.png").write_bytes(b"one")
    (tmp_path / "p/2.jpg").write_bytes(b"two")
    return path


class TestImageFolder:
    def test_images_of_all_folders_sorted_by_path(self, folder):
        items = ImageFolder(folder)
        assert items.names == ["a.webp", "b/10.jpg", "b/2.PNG"]
        assert [items.image(i) for i in range(len(items))] == [
            ("image/webp", b"a.webp"),
            ("image/jpeg", b"b/10.jpg"),
            ("image/png", b"b/2.PNG"),
        ]

    def test_positions_do_not_depend_on_the_order_of_the_file_system(self, folder, monkeypatch):
        names, listed = ImageFolder(folder).names, pathlib.Path.rglob
        monkeypatch.setattr(
            pathlib.Path, "rglob", lambda self, pattern: list(listed(self, pattern))[::-1]
        )
        assert ImageFolder(folder).names == names

    def test_no_image(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no image, a file that ends in one of \.bmp"):
            ImageFolder(tmp_path)

    @pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
    @pytest.mark.parametrize("name", [b"\xff.png", b"\xff/a.png"])
    def test_a_name_that_is_not_utf8(self, folder, name):
        path = pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.touch()
        with pytest.raises(ValueError, match=r"holds '\\udcff.*', whose name is not UTF-8.*rename"):
            ImageFolder(folder)


class TestTable:
    def test_values_are_shown_as_they_are_written(self, table):
        items = Table(table, text="text", image="photo")
        assert items.describe(0) == {
            "name": "Hi, you",
            "has_image": True,
            "text": "Hi, you",
            "columns": [["id", "007"], ["size", "1.50"]],
        }
        assert items.describe(1)["text"] == "NA"
        assert items.describe(1)["columns"] == [["id", "8"], ["size", ""]]

    def test_names(self, table):
        assert Table(table).names == ["0", "1"]
        assert Table(table, image="photo").names == ["p/1.png", "p/2.jpg"]
        assert Table(table, image="photo", text="text").names == ["Hi, you", "NA"]
        assert Table(table, text="text", key="id").names == ["007", "8"]

    def test_contents_do_not_depend_on_what_is_shown(self, table):
        assert Table(table).contents == Table(table, text="text", image="photo", key="id").contents

    def test_images_beside_the_file(self, table):
        assert Table(table, image="photo").image(1) == ("image/jpeg", b"two")
        with pytest.raises(LookupError, match="--image"):
            Table(table).image(0)

    @pytest.mark.parametrize("name", ["p/3.png", "p", "t.csv", ""])
    def test_what_is_no_image(self, table, name):
        table.write_text(f"photo,x\np/1.png,1\n{name},2\n")
        with pytest.raises(ValueError, match=r"--image photo: .* in row 1 is not an image"):
            Table(table, image="photo")

    def test_tabs(self, tmp_path):
        (tmp_path / "t.tsv").write_text("a\tb\n1,5\t2\n")
        assert Table(tmp_path / "t.tsv").describe(0)["columns"] == [["a", "1,5"], ["b", "2"]]

    @pytest.mark.parametrize("option", ["text", "image", "key"])
    def test_a_column_that_is_not_there(self, table, option):
        with pytest.raises(ValueError, match=r"got nope\. It has id, text, size, photo"):
            Table(table, **{option: "nope"})

    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "utf-8-sig"])
    def test_encodings(self, tmp_path, encoding):
        content = 'größe,text\r\n1,"hôtel,\r\nzwei"\r\n'
        path = tmp_path / "t.csv"
        path.write_bytes(content.encode(encoding))
        table = open_items(path, text="text", encoding=encoding)
        assert table.names == ["hôtel,\r\nzwei"]
        assert table.describe(0)["columns"] == [["größe", "1"]]
        if encoding.startswith("utf-8"):
            assert open_items(path).contents == table.contents

    def test_a_file_in_another_encoding(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_bytes("text,n\nbar,1\ncafé,2\n".encode("latin-1"))
        with pytest.raises(
            ValueError, match=r"t\.csv' is not in UTF-8: byte 0xe9 in line 3\. .* by --encoding"
        ):
            open_items(path)
        with pytest.raises(ValueError, match="is not in ascii: byte 0xe9 in line 3"):
            open_items(path, encoding="ascii")
        with pytest.raises(ValueError, match=r"--encoding must be .*; got 'latin77'"):
            open_items(path, encoding="latin77")

    def test_an_empty_file(self, tmp_path):
        (tmp_path / "t.csv").write_text("")
        with pytest.raises(ValueError, match=r"t\.csv' is empty: it has no header\."):
            open_items(tmp_path / "t.csv")

    @pytest.mark.parametrize(
        ("content", "header", "row"),
        [
            ("subject\nhello, you\nhi, there\n", 1, 2),
            ("subject,length\nWin,12,\nLunch,6,\n", 2, 3),
            ("n,subject\n0,hello, you\n1,hi, there\n", 2, 3),
            ("subject\nhello, you, there\n", 1, 3),
        ],
    )
    def test_rows_with_more_fields_than_the_header(self, table, content, header, row):
        table.write_text(content)
        with pytest.raises(
            ValueError,
            match=rf"t\.csv' cannot be read: its first row has {row} fields, its header {header}; ",
        ):
            Table(table)

    @pytest.mark.parametrize("content", ["a\nhello\nhi, you\n", 'a\nhello\n"hi\n'])
    def test_rows_that_cannot_be_read(self, table, content):
        table.write_text(content)
        with pytest.raises(ValueError, match=r"t\.csv' cannot be read: .*[^\n]\. Quote texts"):
            Table(table)

    def test_no_row(self, table):
        table.write_text("a,b\n")
        with pytest.raises(ValueError, match="has no row"):
            Table(table)


class TestOpenItems:
    def test_by_what_the_path_is(self, folder, table):
        assert isinstance(open_items(folder), ImageFolder)
        assert open_items(table, text="text", image="photo", key="id").names == ["007", "8"]

    def test_columns_of_a_folder(self, folder):
        with pytest.raises(ValueError, match="--text, --id: only for a CSV file"):
            open_items(folder, text="a", key="b")
        with pytest.raises(ValueError, match="--encoding: only for a CSV file"):
            open_items(folder, encoding="latin-1")

    @pytest.mark.parametrize("name", ["missing.csv", "notes.txt", "nowhere"])
    def test_neither(self, folder, name):
        with pytest.raises(ValueError, match=r"must be a folder of images, or a file that ends"):
            open_items(folder / name)
