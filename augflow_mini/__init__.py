"""augflow_mini: augmented normalizing flows as one chain of layers.

Importing it computes nothing and draws nothing; plots and widgets load when first asked for.
"""

__version__ = "0.1.0"

# Augmentation: the one non-bijective pair
from .augment import Augment, Slice
from .bounds import ImportanceBound, LogWeights, Sandwich, bits_per_dim, sandwich

# Checks for readers' own layers
from .checks import check_normalised, check_transform, randomise

# Couplings and linear layers
from .coupling import AdditiveCoupling, AffineCoupling, Coupling

# Discrete data
from .dequantize import Carry, uniform_dequantize, variational_dequantize

# Laws and networks
from .distributions import BernoulliNet, GaussianNet, Law, StandardNormal, StandardUniform
from .flow import Flow, Latents

# The gap: closed forms, quadrature, the panel
from .gap import (
    GapReport,
    LinearGaussian,
    Quadrature,
    ScalarANF,
    expected_iw_bound,
    log_joint,
    measure_gap,
    quadrature,
)
from .image_recipes import (
    IMAGE_CONFIGS,
    anf_image,
    compile_parts,
    flowpp,
    glow,
    latent_shape,
    realnvp_image,
    vflow_image,
    vflow_mini,
)
from .imagenets import ContextNet, ConvNet, GatedAttentionNet, WideResidualNet, data_init
from .linear import ActNorm, InvertibleLinear
from .mixlogistic import MixLogisticCoupling
from .nets import MLP, count_parameters
from .pointwise import Logit, Scale, Sigmoid

# Models as lists
from .recipes import affine_mlp, anf, cif, hierarchical_anf, realnvp, vae, vflow
from .residual import InvertibleResidual
from .shape import Append, Checkerboard, Permute, Squeeze

# Training
from .train import Fit, fit, negative_elbo

# The chain of layers
from .transform import Chain, Inverse, On, Transform, sum_event

__all__ = [
    "Fit",
    "fit",
    "negative_elbo",
    "IMAGE_CONFIGS",
    "MLP",
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Append",
    "Augment",
    "BernoulliNet",
    "Carry",
    "Chain",
    "Checkerboard",
    "ContextNet",
    "ConvNet",
    "Coupling",
    "Flow",
    "GapReport",
    "GatedAttentionNet",
    "GaussianNet",
    "ImportanceBound",
    "Inverse",
    "InvertibleLinear",
    "InvertibleResidual",
    "Latents",
    "Law",
    "LinearGaussian",
    "LogWeights",
    "Logit",
    "MixLogisticCoupling",
    "On",
    "Permute",
    "Quadrature",
    "Sandwich",
    "ScalarANF",
    "Scale",
    "Sigmoid",
    "Slice",
    "Squeeze",
    "StandardNormal",
    "StandardUniform",
    "Transform",
    "WideResidualNet",
    "affine_mlp",
    "anf",
    "anf_image",
    "bits_per_dim",
    "check_normalised",
    "check_transform",
    "cif",
    "compile_parts",
    "count_parameters",
    "data_init",
    "expected_iw_bound",
    "flowpp",
    "glow",
    "hierarchical_anf",
    "latent_shape",
    "log_joint",
    "measure_gap",
    "quadrature",
    "randomise",
    "realnvp",
    "realnvp_image",
    "sandwich",
    "sum_event",
    "uniform_dequantize",
    "vae",
    "variational_dequantize",
    "vflow",
    "vflow_image",
    "vflow_mini",
]
