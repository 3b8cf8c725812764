"""The rooms of the package and the imports between them, and a picture of both.

``python docs/house.py house.svg``; the build of the pages draws it for the contributing page.
"""

import ast
import pathlib
import sys

import numpy as np

PACKAGE = pathlib.Path(__file__).parents[1] / "laplace_al"
# Imports point down this list, never up.
ROOMS = [
    "label",
    "integrations",
    "experiments",
    "loop",
    "strategies",
    "pool",
    "classifier",
    "storage",
    "inputs",
    "model",
    "_common",
]


def modules():
    """Room and path of each file of the package below the façade."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imports(path):
    """Names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "laplace_al":
                yield from (f"laplace_al.{alias.name}" for alias in node.names)
            else:
                yield node.module


def arrows():
    """Pairs of a room and another one that it imports from."""
    pairs = {
        (room, name.split(".")[1])
        for room, path in modules()
        for name in imports(path)
        if name.startswith("laplace_al.")
    }
    return {(room, other) for room, other in pairs if room != other}


def draw(path):
    """Draw the rooms as stairs: an import goes along the row of a room, and down into another."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    shades = plt.get_cmap("viridis")(np.linspace(0.08, 0.92, len(ROOMS)))
    fig, ax = plt.subplots(figsize=(9.6, 5.6), layout="constrained")
    for place, room in enumerate(ROOMS):
        importers = [ROOMS.index(each) for each, other in arrows() if other == room]
        imported = [ROOMS.index(other) for each, other in arrows() if each == room]
        ax.plot([place, max(imported, default=place)], [place, place], color="0.78", lw=1.2)
        if importers:
            ax.annotate(
                "",
                xy=(place, place - 0.3),
                xytext=(place, min(importers)),
                arrowprops={"arrowstyle": "-|>", "color": shades[place], "lw": 1.6, "shrinkA": 0},
            )
        dots = {"color": shades[place], "markersize": 6.5, "markeredgecolor": "white"}
        ax.plot([place] * len(importers), importers, "o", zorder=3, **dots)
        is_light = shades[place][:3] @ [0.2126, 0.7152, 0.0722] > 0.45
        ink = "black" if is_light else "white"
        ax.text(place, place, room, ha="center", va="center", size=9, color=ink, zorder=5)
        box = FancyBboxPatch(
            (place - 0.54, place - 0.3), 1.08, 0.6, "round,pad=0,rounding_size=0.1"
        )
        ax.add_patch(box)
        box.set(facecolor=shades[place], edgecolor="white", zorder=4)
    ax.text(
        -0.5,
        len(ROOMS) - 1,
        "A dot: the room on its row imports\nfrom the room below its column.",
        va="center",
        size=10,
        color="0.3",
    )
    ax.set(xlim=(-0.6, len(ROOMS) - 0.4), ylim=(len(ROOMS) - 0.5, -0.5))
    ax.axis("off")
    path.parent.mkdir(exist_ok=True)
    fig.savefig(path)
    plt.close(fig)


if __name__ == "__main__":
    draw(pathlib.Path(sys.argv[1]))
