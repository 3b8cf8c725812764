"""Parts that the displays share: matplotlib on demand, colours, the look of legends and axes."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people of any colour vision tell apart, without the faint yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LEGEND: dict[str, Any] = {
    "fontsize": "small",
    "title_fontsize": "small",
    "framealpha": 0.8,
    "edgecolor": "none",
}


def without_aliases(style: dict[str, Any]) -> dict[str, Any]:
    """Return properties of a line under their full names: ``linewidth`` for ``lw``."""
    from matplotlib import cbook, lines

    return dict(cbook.normalize_kwargs(style, lines.Line2D))


def tidy_axes(ax: "Axes") -> None:
    """Draw a faint grid, and no spines at the top and on the right."""
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def import_pyplot(caller: str) -> ModuleType:
    """Return matplotlib.pyplot, or raise an ImportError that names the caller."""
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError(
            f"{caller} requires matplotlib. You can install matplotlib with `pip install "
            "matplotlib`."
        ) from error
    return matplotlib.pyplot
