"""Features that a function of the user computes, and the file that keeps them."""

import contextlib
import functools
import importlib
import io
import json
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from laplace_al._common.typing import Path
from laplace_al.inputs.networks import check_features as extracted_features
from laplace_al.label.features import fill_with_mean, given_features
from laplace_al.label.items import Items, Table, leave_out_unreadable
from laplace_al.storage.archive import replace_file
from laplace_al.storage.digests import fingerprint

_BATCH = 64  # items that are embedded at once


class EmbeddingError(Exception):
    """The callable of the user failed."""


def embed(items: Items, target: str) -> NDArray[Any]:
    """Return the features (n_items, n_features) that ``module:callable`` makes.

    It is called with up to 64 of :func:`inputs` at a time and returns a row for each. Items whose
    image cannot be read get the mean of the others. ``EmbeddingError`` is raised from the
    exception of a callable that fails.
    """
    embedding = _imported(target)
    leave_out_unreadable(items, whole=True)
    given = inputs(items)
    positions = [i for i in range(len(items)) if i not in items.unreadable]
    blocks: list[NDArray[Any]] = []
    for start in tqdm(range(0, len(positions), _BATCH), "Embedding", delay=1, unit="batch"):
        block = positions[start : start + _BATCH]
        where = f"the {len(block)} {items.noun} from {items.names[block[0]]!r} on"
        try:
            made = embedding([given[i] for i in block])
        except Exception as error:
            raise EmbeddingError(f"{target} failed on {where}") from error
        try:
            rows = extracted_features(made, start, start + len(block))
        except ValueError as error:
            reason = str(error).replace("feature_extractor", "it")
            raise ValueError(f"--embed {target}, on {where}: {reason}") from error
        if rows.shape[1:] != (blocks or [rows])[0].shape[1:]:
            raise ValueError(
                f"--embed {target} must make each row from one item, whatever is beside it: got "
                f"{rows.shape[1]} columns for {where}, {blocks[0].shape[1]} before."
            )
        blocks.append(rows)
    return fill_with_mean(np.concatenate(blocks), positions, len(items))


def _imported(target: str) -> Any:
    """Return what ``module:name`` or ``module:name.of.a.part`` names."""
    module, _, name = target.partition(":")
    try:
        imported: Any = importlib.import_module(module)
        return functools.reduce(getattr, name.split("."), imported)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--embed must be MODULE:CALLABLE, of a module that can be imported from here; got "
            f"{target!r}: {error}."
        ) from error


def inputs(items: Items) -> list[Any]:
    """Return paths of images if there are any, else texts, else rows as dicts of the columns."""
    if items.paths is not None:
        return list(items.paths)
    if items.text is not None:
        return items.shown[items.text].tolist()
    return items.parsed.to_dict("records")


def cached(path: Path | None, items: Items, target: str) -> NDArray[Any]:
    """Return the features of :func:`embed` from a ``.npy`` file; make and write them if it is new.

    Behind the array, where ``numpy.load`` does not look, the file says what it was made of; one of
    other items or another target is refused.
    """
    if path is None:
        return embed(items, target)
    given, path = path, pathlib.Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"--cache must end in .npy; got {str(given)!r}.")
    if not path.parent.is_dir():
        raise ValueError(
            f"--cache {str(path)!r}: the folder {str(path.parent)!r} does not exist; make it first."
        )
    made_of = {"embed": target, "items": _digest(items)}
    if path.exists():
        with path.open("rb") as file:
            with contextlib.suppress(ValueError, EOFError):  # of what is no array at all
                np.load(file, allow_pickle=False)
            items.unreadable |= _unreadable_then(file.read(), made_of, path)
        return given_features(path, len(items))
    features = embed(items, target)
    content = io.BytesIO()
    np.save(content, features)
    content.write(json.dumps(made_of | {"unreadable": items.unreadable}).encode())
    replace_file(path, content.getvalue())
    return features


def _unreadable_then(
    content: bytes, expected: dict[str, str], path: pathlib.Path
) -> dict[int, str]:
    """Return which items could not be read; refuse features that were made of something else."""
    refused = f"--cache {str(path)!r} was not made by --embed {expected['embed']} of these items"
    cure = "Delete it to embed anew, name another file, or give it as --features."
    try:
        made_of = json.loads(content)
        found = {name: made_of[name] for name in expected}
        unreadable = {int(position): str(why) for position, why in made_of["unreadable"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{refused}: it does not say what it was made of. {cure}") from error
    if found["embed"] != expected["embed"]:
        raise ValueError(f"{refused}, but by --embed {found['embed']}. {cure}")
    if found != expected:
        raise ValueError(f"{refused}, but of others: their names or contents differ. {cure}")
    return unreadable


def _digest(items: Items) -> str:
    """Return the fingerprint of the inputs of an embedding; of images, names and sizes count."""
    kind = items.text if isinstance(items, Table) else None
    sizes = [path.stat().st_size if path.exists() else -1 for path in items.paths or []]
    return fingerprint([str(kind), *items.contents, *map(str, sizes)])
