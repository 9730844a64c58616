"""Models: by name, from timm and torchvision, from a user's builder at an import path, or given as modules."""

from tvlars.lab.models.build import Model, build_model, check_model
from tvlars.lab.models.head import head_of, put_head
from tvlars.lab.models.init import INITS, initialize
from tvlars.lab.models.named import MODELS, SMALL_IMAGE, SmallResNet
from tvlars.lab.models.source import FORMS, check_model_name, given_name, has_code, said_model, spelled_model
from tvlars.lab.models.stem import STEMS

__all__ = [
    "FORMS",
    "INITS",
    "MODELS",
    "SMALL_IMAGE",
    "STEMS",
    "Model",
    "SmallResNet",
    "build_model",
    "check_model",
    "check_model_name",
    "given_name",
    "has_code",
    "head_of",
    "initialize",
    "put_head",
    "said_model",
    "spelled_model",
]
