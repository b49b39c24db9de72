"""Explorers: widgets that live in the built page without a kernel, and with torch in Jupyter."""

from .base import Explorer
from .dequantise import DequantiseExplorer
from .export import export_flow, import_flow
from .gap import GapExplorer
from .k_samples import KSamplesExplorer
from .mixture import MixtureExplorer

__all__ = [
    "DequantiseExplorer",
    "Explorer",
    "GapExplorer",
    "KSamplesExplorer",
    "MixtureExplorer",
    "export_flow",
    "import_flow",
]
