"""House style for figures, and `show`, which gives every figure its alternative text.

Nothing here imports matplotlib until a function is called: the library itself does not need it.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with any common colour blindness, and in grey.
# One meaning each through the whole book, so that a reader learns them once.
BLUE = "#0072B2"  # the model, log p(x)
ORANGE = "#D55E00"  # the bound (ELBO) and the posterior flow q
GREEN = "#009E73"  # data, the truth
PURPLE = "#CC79A7"  # the gap
SKY = "#56B4E9"
YELLOW = "#E69F00"
GREY = "#6E6E6E"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, GREY)
DENSITY = "cividis"  # colour map for densities: even in lightness, safe for colour-blind readers

DPI = 120  # sharp enough on a phone, light enough for the page


def house_style() -> None:
    """Set matplotlib's defaults: dark ink on opaque white, which a dark page shows as it is."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "figure.facecolor": "white",
            "font.size": 10,
            "image.cmap": DENSITY,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.facecolor": "white",
        }
    )


def subplots(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.0, **options: Any
) -> tuple[Figure, Any]:
    """Return `(figure, axes)` in the house style, as `matplotlib.pyplot.subplots` does.

    Args:
        rows, columns: the grid of axes.
        width, height: inches; 6.4 fills the text column.
        options: passed to `matplotlib.pyplot.subplots` (`sharex=True`, `squeeze=False`, ...).
    """
    import matplotlib.pyplot as plt

    house_style()
    options.setdefault("layout", "constrained")
    return plt.subplots(rows, columns, figsize=(width, height), **options)


def image_tag(figure: Figure, alt: str) -> str:
    """Return the figure as one HTML `<img>` that carries its pixels and its alternative text.

    Raises:
        ValueError: if `alt` does not say in a few words what the figure shows.
    """
    if len(alt.split()) < 4:
        raise ValueError(
            f"alt={alt!r} is too short: say in a sentence what a reader sees in the figure"
        )
    from PIL import Image  # matplotlib needs it to write pictures, so it is here

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    picture = Image.open(buffer).convert("RGB").quantize(128)  # a third of the bytes
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())  # CSS pixels
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img class="figure" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        f'style="max-width: 100%; height: auto" src="data:image/png;base64,{data}">'
    )


def show(figure: Figure, alt: str) -> None:
    """Show the figure below the cell, with `alt` for readers who do not see it, and close it.

    The output is HTML: of the output formats it is the only one for which JupyterLab, Colab and
    the built page all pass the text on to the screen reader.

    Args:
        figure: a matplotlib figure.
        alt: what a reader sees in it, in a sentence; no digits that a new run could change.

    Raises:
        ValueError: if `alt` does not say in a few words what the figure shows.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    display({"text/plain": alt, "text/html": image_tag(figure, alt)}, raw=True)
    plt.close(figure)  # else the notebook shows it a second time at the end of the cell


def still(figure: Figure, alt: str) -> None:
    """Leave the figure for pages in which no Python runs; where it runs, nothing is seen.

    For a cell with a widget that needs a kernel: `ipywidgets.interact` of a function of your own.
    The built page shows the picture in the widget's place and says where to run it; with JavaScript
    on, a browser shows nothing that stands in `<noscript>`.

    Args:
        figure, alt: as in `show`.
    """
    import matplotlib.pyplot as plt
    from IPython.display import HTML, display

    display(HTML(f"<noscript>{image_tag(figure, alt)}</noscript>"))
    plt.close(figure)
