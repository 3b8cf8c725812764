"""The items that are labelled: the images of a folder or the rows of a CSV file."""

import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from laplace_al._common.typing import Path
from laplace_al.inputs.labels import is_utf8
from laplace_al.label.csv_files import SEPARATORS, read_table
from laplace_al.label.images import FORMATS, for_browser, unreadable


class ImageFolder:
    """The images of a folder and its subfolders, sorted by path.

    Linked files and folders are among them, hidden ones are not.

    ``names`` are the paths relative to the folder; ``paths`` the files; ``contents`` the texts
    that tell items apart in a journal, here the names; ``unreadable`` says, by position, what is
    wrong with items that are not asked for; ``notes`` say which files are not among the items.
    """

    noun = "images"

    def __init__(self, root: Path) -> None:
        self.root = pathlib.Path(root)
        self.notes: list[str] = []
        files = list(self._walk(self.root, ()))
        taken = [path for path in files if path.suffix.lower() in FORMATS]
        self.names = sorted(path.relative_to(self.root).as_posix() for path in taken)
        others = Counter(
            path.suffix or "no ending" for path in files if path.suffix.lower() not in FORMATS
        )
        if others:
            counts = ", ".join(f"{n} {ending}" for ending, n in sorted(others.items()))
            self.notes.append(f"Files that are not taken for images, by their endings: {counts}.")
        if not self.names:
            raise ValueError(
                f"The folder {str(root)!r} holds no image, a file that ends in one of "
                f"{', '.join(FORMATS)}. {' '.join(self.notes)}".rstrip()
            )
        unknown = next((name for name in self.names if not is_utf8(name)), None)
        if unknown is not None:
            raise ValueError(
                f"The folder {str(root)!r} holds {unknown!r}, whose name is not UTF-8, the only "
                "encoding that a journal keeps names in; rename it."
            )
        self.paths = [self.root / name for name in self.names]
        self.contents = self.names
        self.unreadable: dict[int, str] = {}

    def _walk(
        self, folder: pathlib.Path, above: tuple[tuple[int, int], ...]
    ) -> Iterator[pathlib.Path]:
        """Yield the files of a folder and its subfolders; note links back to a folder above."""
        try:
            status = folder.stat()
            paths = sorted(folder.iterdir())
        except OSError as error:
            self.notes.append(f"A folder that cannot be read: {str(folder)!r}: {error.strerror}.")
            return
        above = (*above, (status.st_dev, status.st_ino))
        for path in paths:
            if path.name.startswith("."):
                continue
            # isdir and isfile are False, where those of pathlib raise, if access is denied
            if os.path.isdir(path):
                status = path.stat()
                if (status.st_dev, status.st_ino) in above:
                    self.notes.append(f"A link that leads back to where it is: {str(path)!r}.")
                else:
                    yield from self._walk(path, above)
            elif os.path.isfile(path):
                yield path
            else:
                self.notes.append(f"A link to nothing, or no file: {str(path)!r}.")

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, position: int) -> dict[str, Any]:
        """Return what the page shows of an item.

        ``name``; ``has_image``; ``text``, shown large, or None; ``columns``, pairs of a name and a
        value.
        """
        return {"name": self.names[position], "has_image": True, "text": None, "columns": []}

    def image(self, position: int) -> tuple[str, bytes]:
        """Return the media type and the bytes of an image."""
        return for_browser(self.paths[position])


class Table:
    """The rows of a CSV or TSV file.

    ``text`` is the column that is shown large, ``image`` one of paths relative to the file. The
    first of ``key``, ``text`` and ``image`` that is given names the rows, else their position.

    ``shown`` is the file as it is written, ``parsed`` as pandas reads it; ``contents`` are the
    whole rows. ``names``, ``paths`` (None without images), ``unreadable`` and ``notes`` are those
    of :class:`ImageFolder`.
    """

    noun = "rows"

    def __init__(
        self,
        path: Path,
        *,
        text: str | None = None,
        image: str | None = None,
        key: str | None = None,
        encoding: str | None = None,
    ) -> None:
        self.path = pathlib.Path(path)
        self.unreadable: dict[int, str] = {}
        self.notes: list[str] = []
        self.shown, self.parsed, separator = read_table(self.path, encoding)
        if separator != "," and self.path.suffix.lower() != ".tsv":
            self.notes.append(f"Columns separated by {SEPARATORS[separator]}.")
        if not len(self.shown):
            raise ValueError(f"{str(path)!r} has no row.")
        for option, column in {"--text": text, "--image": image, "--id": key}.items():
            self.check_columns(option, [] if column is None else [column])
        self.text, self.image_column, self.key = text, image, key
        named = next((column for column in (key, text, image) if column is not None), None)
        positions = [str(position) for position in range(len(self.shown))]
        self.names = positions if named is None else self.shown[named].tolist()
        self._rows = self.shown.to_dict("records")
        self.contents = ["\t".join(row.values()) for row in self._rows]
        self.paths = None if image is None else self._image_paths(image)

    def check_columns(self, option: str, columns: Sequence[str]) -> None:
        """Refuse columns, given by an option, that the file lacks."""
        missing = [column for column in columns if column not in self.shown.columns]
        if missing:
            raise ValueError(
                f"{option} must name columns of {str(self.path)!r}; got {', '.join(missing)}. It "
                f"has {', '.join(self.shown.columns)}."
            )

    def __len__(self) -> int:
        return len(self.shown)

    def describe(self, position: int) -> dict[str, Any]:
        """Return what the page shows of an item, as :meth:`ImageFolder.describe` does."""
        row = self._rows[position]
        return {
            "name": self.names[position],
            "has_image": self.paths is not None,
            "text": None if self.text is None else row[self.text],
            "columns": [
                [column, value]
                for column, value in row.items()
                if column not in (self.text, self.image_column)
            ],
        }

    def image(self, position: int) -> tuple[str, bytes]:
        """Return the media type and the bytes of an image."""
        if self.paths is None:
            raise LookupError("The rows have no images; --image names a column of them.")
        return for_browser(self.paths[position])

    def _image_paths(self, column: str) -> list[pathlib.Path]:
        paths = [self.path.parent / name for name in self.shown[column]]
        for row, path in enumerate(paths):
            if path.suffix.lower() not in FORMATS or not os.path.isfile(path):
                self.unreadable[row] = (
                    f"{self.shown[column].iloc[row]!r} in row {row} is not an image beside "
                    f"{str(self.path)!r}, a file that ends in one of {', '.join(FORMATS)}."
                )
        if len(self.unreadable) == len(paths):
            raise ValueError(f"--image {column}: {self.unreadable[0]}")
        return paths


Items: TypeAlias = ImageFolder | Table


def leave_out_unreadable(items: Items, *, whole: bool = False) -> None:
    """Add to ``items.unreadable`` the images that cannot be read; they keep their positions.

    Only heads are read unless the images are to be decoded as a ``whole``.
    """
    if items.paths is None:
        return
    items.unreadable |= unreadable(readable_paths(items), whole=whole)
    if len(items.unreadable) == len(items):
        raise ValueError(f"None of the images can be read. The first: {items.unreadable[0]}")


def readable_paths(items: Items) -> dict[int, pathlib.Path]:
    """Return the paths of the images that can be read as far as is known, by position."""
    return {i: path for i, path in enumerate(items.paths or []) if i not in items.unreadable}


def open_items(
    path: Path,
    *,
    text: str | None = None,
    image: str | None = None,
    key: str | None = None,
    encoding: str | None = None,
) -> Items:
    """Return the items of a folder, or of a CSV file with the columns of :class:`Table`."""
    path = pathlib.Path(path)
    if path.is_dir():
        options = {"--text": text, "--image": image, "--id": key, "--encoding": encoding}
        given = [option for option, value in options.items() if value is not None]
        if given:
            raise ValueError(
                f"{', '.join(given)}: only for a CSV file; {str(path)!r} is a folder of images."
            )
        return ImageFolder(path)
    if path.suffix.lower() not in (".csv", ".tsv") or not path.is_file():
        raise ValueError(
            f"{str(path)!r} must be a folder of images, or a file that ends in .csv or .tsv."
        )
    return Table(path, text=text, image=image, key=key, encoding=encoding)
