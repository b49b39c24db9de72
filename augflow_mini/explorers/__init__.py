"""Explorers: widgets that live in the built page without a kernel, and with torch in Jupyter."""

from .base import Explorer
from .dequantise import DequantiseExplorer
from .digits import DigitsExplorer
from .export import export_flow, import_flow
from .floors import FloorsExplorer
from .gap import GapExplorer
from .joint import JointExplorer
from .k_samples import KSamplesExplorer
from .leapfrog import LeapfrogExplorer
from .levels import LevelsExplorer
from .mixture import MixtureExplorer
from .same_number import SameNumberExplorer
from .two_bars import TwoBarsExplorer, TwoModesBarsExplorer

__all__ = [
    "DequantiseExplorer",
    "DigitsExplorer",
    "Explorer",
    "FloorsExplorer",
    "GapExplorer",
    "JointExplorer",
    "KSamplesExplorer",
    "LeapfrogExplorer",
    "LevelsExplorer",
    "MixtureExplorer",
    "SameNumberExplorer",
    "TwoBarsExplorer",
    "TwoModesBarsExplorer",
    "export_flow",
    "import_flow",
]
