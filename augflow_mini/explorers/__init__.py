"""Explorers: widgets that live in the built page without a kernel, and with torch in Jupyter."""

from .base import Explorer
from .export import export_flow, import_flow
from .gap import GapExplorer
from .mixture import MixtureExplorer

__all__ = ["Explorer", "GapExplorer", "MixtureExplorer", "export_flow", "import_flow"]
