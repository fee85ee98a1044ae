"""NAT and DiNAT by name in timm: ``timm.create_model("dinat_mini", num_classes=10)``."""

from collections.abc import Callable
from typing import Any

from torch import nn

from graphattn.models.neighborhood_transformer import SIZES, NeighborhoodTransformer

# What timm's data pipelines and weight loaders read; no weights are hosted.
_CONFIG: dict[str, Any] = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "patch_embed.proj.0",
    "classifier": "head",
}
_VARIANTS: dict[str, dict[str, Any]] = {
    f"{family}_{size}": {**arguments, "dilations": dilations}
    for family, dilations in (("nat", None), ("dinat", "dinat"))
    for size, arguments in SIZES.items()
}
default_cfgs = dict.fromkeys(_VARIANTS, _CONFIG)  # timm looks for this name in this module


def register_timm() -> list[str]:
    """Let ``timm.create_model`` and ``timm.list_models`` find the networks of this library.

    Importing ``graphattn.models`` after timm calls this; in the other order, call it yourself. timm
    costs seconds to import, so it is never imported for you. Calling it again changes nothing.

    Returns:
        The names: ``nat_mini``, ``nat_tiny``, ``dinat_mini``, ``dinat_tiny``. ``create_model``
        passes keywords on to :class:`NeighborhoodTransformer`; ``features_only=True`` gives a
        feature pyramid, ``checkpoint_path`` reads published weights, ``pretrained=True`` is
        refused by timm: no weights are hosted.

    Raises:
        ImportError: timm is not installed.
    """
    try:
        from timm.models import is_model, model_entrypoint, register_model
    except ImportError as error:
        raise ImportError("timm is not installed; run: pip install timm") from error
    for name in _VARIANTS:
        if not is_model(name) or model_entrypoint(name).__module__ != __name__:
            register_model(_entrypoint(name))
    return list(_VARIANTS)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls to build ``name``."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        from timm.models import build_model_with_cfg

        pyramid = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
        arguments = _VARIANTS[name] | options
        made: nn.Module = build_model_with_cfg(
            NeighborhoodTransformer, name, pretrained, feature_cfg=pyramid, **arguments
        )
        return made

    build.__name__ = build.__qualname__ = name
    return build
