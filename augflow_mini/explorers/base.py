"""What every explorer shares: its module, its controls, its static picture, torch behind it."""

from __future__ import annotations

import re
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from .. import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)


def source(*names: str) -> str:
    """The named files of this folder as one ES module or one style sheet, in that order.

    Each file imports what it uses, so that an editor and a reader know where a name comes from;
    the joined text needs no import, as a widget's module must not load anything.

    Raises:
        ValueError: a file imports one that does not stand before it.
    """
    parts: list[str] = []
    for i, name in enumerate(names):
        text = (HERE / name).read_text(encoding="utf-8")
        missing = set(IMPORT.findall(text)) - set(names[:i])
        if missing:
            raise ValueError(f"source: {name} imports {sorted(missing)}; name them before it")
        parts.append(IMPORT.sub("", text))
    return "\n".join(parts)


class Explorer(anywidget.AnyWidget):
    """An anywidget that is alive without a kernel and has a static picture for readers without JS.

    A subclass sets `_esm = source("base.js", ..., "<its own>.js")`, `_css = source("base.css")`,
    `alt` and `controls`, and writes `compute` and `picture`. A control is a synced trait with a
    label: a `Float` or `Int` with `min`, `max` and a step becomes a slider, a `Unicode` a choice
    among `options`. Setting a trait outside that range is a `TraitError` that names the range.
    A control tagged `hidden` has no input: buttons move it; link and reset carry it all the same.

    Traits:
        inputs: the controls as the page builds them; made from the traits named in `controls`.
        shown: what the page last computed, written by the page.
        computed: what torch computes for the same state. Filled by `recompute()` and, where a
            kernel is present, after each change of a control or of another trait of the state.
    """

    alt: str = ""
    controls: tuple[str, ...] = ()

    inputs = traitlets.List().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    computed = traitlets.Dict().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.inputs = [self._control(name) for name in self.controls]
        own = set(self.trait_names(sync=True)) - set(Explorer.class_trait_names())
        self.observe(lambda _: self.recompute(), [name for name in own if name[0] != "_"])

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The numbers of the status line, by torch."""

    @abstractmethod
    def picture(self) -> Figure:
        """The present state, drawn by matplotlib."""

    def options(self, name: str) -> list[str]:
        """What a choice offers; only an explorer with a choice has it."""
        raise KeyError(f"{type(self).__name__} has no options for {name!r}")

    def recompute(self) -> dict[str, float]:
        """Run `compute` for the present state, keep the result in `computed` and return it."""
        self.computed = self.compute()
        return self.computed

    def _control(self, name: str) -> dict[str, Any]:
        trait = self.traits()[name]
        control = {"name": name, "label": trait.metadata["label"], "start": getattr(self, name)}
        if trait.metadata.get("hidden"):
            control["hidden"] = True
        if isinstance(trait, traitlets.Unicode):
            return {**control, "options": self.options(name)}
        return {**control, "min": trait.min, "max": trait.max, "step": trait.metadata["step"]}

    def _ipython_display_(self, **options: Any) -> None:
        from IPython.display import display

        bundle, metadata = self._repr_mimebundle_()
        bundle["text/plain"] = self.alt
        display(bundle, metadata=metadata, raw=True)
        plots.still(self.picture(), self.alt)
