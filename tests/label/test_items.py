import io
import os
import pathlib
import sys

import pytest
from PIL import Image

from laplace_al.label.images import FORMATS
from laplace_al.label.items import ImageFolder, Table, leave_out_unreadable, open_items


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

    def test_what_is_not_taken_is_told(self, folder):
        (folder / "b/x.HEIC").touch()
        (folder / "README").touch()
        (folder / "gone.png").symlink_to(folder / "nowhere.png")
        assert ImageFolder(folder).notes == [
            f"A link to nothing, or no file: '{folder / 'gone.png'}'.",
            "Files that are not taken for images, by their endings: 1 .HEIC, 1 .txt, 1 no ending.",
        ]
        assert ImageFolder(folder / "b").notes == [
            "Files that are not taken for images, by their endings: 1 .HEIC."
        ]

    def test_linked_folders_and_files(self, folder, tmp_path_factory):
        other = tmp_path_factory.mktemp("other")
        (other / "c.tiff").touch()
        (other / "back").symlink_to(folder)
        (folder / "linked").symlink_to(other)
        (folder / "z.jpg").symlink_to(other / "c.tiff")
        items = ImageFolder(folder)
        assert items.names == ["a.webp", "b/10.jpg", "b/2.PNG", "linked/c.tiff", "z.jpg"]
        assert f"A link that leads back to where it is: '{folder}/linked/back'." in items.notes

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
    def test_a_folder_that_cannot_be_read(self, folder):
        (folder / "b").chmod(0)
        assert "A folder that cannot be read: " in ImageFolder(folder).notes[0]
        (folder / "b").chmod(0o700)

    @pytest.mark.parametrize("ending", sorted(FORMATS))
    def test_every_format_is_taken_and_shown(self, tmp_path, ending):
        image = Image.new("RGB", (20, 10), (255, 0, 0))
        if FORMATS[ending] not in Image.registered_extensions().values():
            pytest.skip("This Pillow does not know the format.")
        image.convert("1" if ending == ".pbm" else "L" if ending == ".pgm" else "RGB").save(
            tmp_path / f"a{ending}", FORMATS[ending]
        )
        items = ImageFolder(tmp_path)
        leave_out_unreadable(items, whole=True)
        media_type, content = items.image(0)
        with Image.open(io.BytesIO(content)) as sent:
            assert sent.get_format_mimetype() == media_type
            assert sent.size == (20, 10)

    def test_no_image(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no image, a file that ends in one of \.avif"):
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

    @pytest.mark.parametrize(
        "name", ["p/3.png", "p", "t.csv", "", pytest.param(3000 * "x" + ".png", id="long")]
    )
    def test_what_is_no_image(self, table, name):
        table.write_text(f"photo,x\np/1.png,1\n{name},2\n")
        items = Table(table, image="photo")
        assert list(items.unreadable) == [1]
        assert f"{name!r} in row 1 is not an image beside" in items.unreadable[1]
        table.write_text(f"photo,x\n{name},2\n")
        with pytest.raises(ValueError, match=r"--image photo: .* in row 0 is not an image"):
            Table(table, image="photo")

    @pytest.mark.parametrize("option", ["text", "image", "key"])
    def test_a_column_that_is_not_there(self, table, option):
        with pytest.raises(ValueError, match=r"got nope\. It has id, text, size, photo"):
            Table(table, **{option: "nope"})

    def test_no_row(self, table):
        table.write_text("a,b\n")
        with pytest.raises(ValueError, match="has no row"):
            Table(table)


class TestUnreadable:
    @pytest.fixture
    def images(self, tmp_path):
        for i, name in enumerate(["a.png", "c.tif", "d.jpg"]):
            Image.new("RGB", (30, 20), (50 * i, 100, 0)).save(tmp_path / name)
        (tmp_path / "b.png").write_bytes(b"not an image")
        Image.effect_noise((300, 200), 50).save(tmp_path / "e.jpg")
        (tmp_path / "e.jpg").write_bytes((tmp_path / "e.jpg").read_bytes()[:5000])
        return tmp_path

    def test_named_and_the_others_keep_their_positions(self, images):
        items = ImageFolder(images)
        leave_out_unreadable(items)
        assert items.names[1] == "b.png"
        assert list(items.unreadable) == [1]
        assert "b.png' cannot be read as an image: it is in none" in items.unreadable[1]
        leave_out_unreadable(items, whole=True)
        assert list(items.unreadable) == [1, 4]

    def test_rows_of_a_table(self, images):
        names = ["a.png", "b.png", "gone.png", "c.tif"]
        (images / "t.csv").write_text("\n".join(["photo", *names]))
        items = Table(images / "t.csv", image="photo")
        leave_out_unreadable(items)
        assert sorted(items.unreadable) == [1, 2]

    def test_none_is_left(self, tmp_path):
        (tmp_path / "b.png").write_bytes(b"not an image")
        with pytest.raises(ValueError, match=r"None of the images can be read\. .*b\.png"):
            leave_out_unreadable(ImageFolder(tmp_path))

    def test_without_pillow(self, images, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        items = ImageFolder(images)
        leave_out_unreadable(items)
        assert list(items.unreadable) == [2]  # what no browser shows
        assert "c.tif' can be shown only with Pillow" in items.unreadable[2]

    def test_texts(self, table):
        items = Table(table)
        leave_out_unreadable(items)
        assert items.unreadable == {}


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
