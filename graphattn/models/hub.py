"""Models on the Hugging Face Hub: a config and safetensors, behind the ``hub`` extra."""

from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@cache
def hub(model: type[M]) -> type[M]:
    """``model`` with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    The class returned is a subclass with the same arguments, parameters and state dict, joined with
    ``huggingface_hub.PyTorchModelHubMixin``. A folder or repository holds ``config.json``, the
    constructor's arguments, and ``model.safetensors``; nothing is pickled. ``device`` is left out:
    a model is loaded to the CPU unless ``from_pretrained`` is given another one. The class is made
    here, so its objects cannot be pickled: keep their ``state_dict()``.

    Args:
        model: A class of ``graphattn.models``, or any Module of yours.

    Raises:
        ImportError: huggingface_hub is not installed.
        TypeError: (on saving) an argument such as a function cannot be written to a config, so
            that another model would be read back.

    Example:
        >>> Classifier = ga.models.hub(ga.models.NeighborhoodTransformer)
        >>> Classifier(num_classes=10).save_pretrained("cifar10")
        >>> model = Classifier.from_pretrained("cifar10")
    """
    try:
        from huggingface_hub import PyTorchModelHubMixin
    except ImportError as error:
        raise ImportError(
            "huggingface_hub is not installed; run: pip install 'graphattn[hub]'"
        ) from error

    parent: Any = model
    coders = {torch.dtype: (_dtype_name, _dtype)}

    class Shared(parent, PyTorchModelHubMixin, library_name="graphattn", coders=coders):  # type: ignore[misc, call-arg]
        @wraps(parent.__init__)  # type: ignore[misc]  # the mixin reads the signature
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._hub_mixin_config.pop("device", None)
            names = dict(zip(list(self._hub_mixin_init_parameters)[1:], args, strict=False))
            self._unwritable = [n for n, v in (names | kwargs).items() if not self._is_jsonable(v)]

        def _save_pretrained(self, save_directory: Any) -> None:
            lost = [name for name in self._unwritable if name != "device"]
            if lost:
                raise TypeError(
                    f"{', '.join(lost)} cannot be written to config.json; leave it at its default, "
                    "or save the state_dict() and build the model yourself"
                )
            super()._save_pretrained(save_directory)

    Shared.__name__, Shared.__qualname__ = model.__name__, model.__qualname__
    Shared.__doc__ = model.__doc__
    joined: type[M] = Shared
    return joined


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found
