"""augflow_mini: augmented normalizing flows as one chain of layers.

Importing it computes nothing and draws nothing; plots and widgets load when first asked for.
"""

__version__ = "0.1.0"

# The chain of layers
# Augmentation: the one non-bijective pair
from .augment import Augment, Slice
from .bounds import ImportanceBound, LogWeights, Sandwich, bits_per_dim

# Checks for readers' own layers
from .checks import check_normalised, check_transform, randomise

# Couplings and linear layers
from .coupling import AdditiveCoupling, AffineCoupling, Coupling

# Discrete data
from .dequantize import Carry, uniform_dequantize, variational_dequantize

# Laws and networks
from .distributions import BernoulliNet, GaussianNet, Law, StandardNormal, StandardUniform
from .flow import Flow, Latents
from .linear import ActNorm, InvertibleLinear
from .nets import MLP, count_parameters
from .pointwise import Logit, Scale, Sigmoid

# Models as lists
from .recipes import affine_mlp, anf, realnvp, vae, vflow
from .shape import Permute, Squeeze
from .transform import Chain, Inverse, On, Transform, sum_event

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Augment",
    "BernoulliNet",
    "Carry",
    "Chain",
    "Coupling",
    "Flow",
    "GaussianNet",
    "ImportanceBound",
    "Inverse",
    "InvertibleLinear",
    "Latents",
    "Law",
    "LogWeights",
    "Logit",
    "MLP",
    "On",
    "Permute",
    "Sandwich",
    "Scale",
    "Sigmoid",
    "Slice",
    "Squeeze",
    "StandardNormal",
    "StandardUniform",
    "Transform",
    "affine_mlp",
    "anf",
    "bits_per_dim",
    "check_normalised",
    "check_transform",
    "count_parameters",
    "randomise",
    "realnvp",
    "sum_event",
    "uniform_dequantize",
    "vae",
    "variational_dequantize",
    "vflow",
]
