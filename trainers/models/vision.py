"""Classification models of torchvision and timm, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainers.contract import DataError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMM = "timm:"

# These have a second head that only helps to train very deep networks from nothing, and put out
# two tensors with it.
WITHOUT_SECOND_HEAD: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def named(
    model: Mapping[str, Any], shape: tuple[int, ...], outputs: int, _: Any = None
) -> nn.Module:
    """A model with its head for `outputs` classes and weights drawn at random.

    Args:
        model: Its ``name`` is torchvision's, or ``timm:`` and one of timm's. Where ``dropout`` and
            ``stochastic_depth`` are None, these are as the model has them.
        shape: (channels, height, width); for torchvision a single channel is repeated three times.

    Raises:
        DataError: There is no classification model of that name, or it has no dropout or
            stochastic depth that could be set; timm is not installed.
    """
    if model["name"].startswith(TIMM):
        return _of_timm(model, shape, outputs)
    built = _of_torchvision(model["name"], shape, outputs)
    if model["dropout"] is not None:
        _set_dropout(built, model["name"], model["dropout"])
    if model["stochastic_depth"] is not None:
        _set_stochastic_depth(built, model["name"], model["stochastic_depth"])
    return built


def _of_torchvision(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    import torchvision

    from trainers.models import OF_IMAGES

    there = torchvision.models.list_models(module=torchvision.models)
    if name not in there:
        raise DataError(
            "model.name",
            f"expected {', '.join(OF_IMAGES)}, a classification model of torchvision or "
            f"{TIMM}NAME; got {name!r}",
            did_you_mean(name, [*OF_IMAGES, *there]),
        )
    extra: dict[str, Any] = dict(WITHOUT_SECOND_HEAD.get(name, {}))
    if name.startswith("vit_"):
        extra["image_size"] = shape[1]
    built: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=outputs, **extra
    )
    if shape[0] == 1:
        built.register_forward_pre_hook(_repeat_channel)
    return built


def _repeat_channel(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].expand(-1, 3, -1, -1),)


def _set_dropout(built: nn.Module, name: str, share: float) -> None:
    from torch import nn

    layers = [layer for layer in built.modules() if isinstance(layer, nn.Dropout)]
    if not layers:
        raise DataError("model.dropout", f"{name} has no dropout layers", "leave it out")
    for layer in layers:
        layer.p = share


def _set_stochastic_depth(built: nn.Module, name: str, share: float) -> None:
    """The last block is skipped with this probability, those before it with less in proportion to
    their place (Huang et al. 2016)."""
    from torchvision.ops import StochasticDepth

    layers = [layer for layer in built.modules() if isinstance(layer, StochasticDepth)]
    if not layers:
        raise DataError(
            "model.stochastic_depth",
            f"{name} has no blocks that can be skipped",
            "resnet, or one of convnext_…, efficientnet_…, swin_…, maxvit_t",
        )
    for place, layer in enumerate(layers, 1):
        layer.p = share * place / len(layers)


def timm_options(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What ``timm.create_model`` is to be told of images of this shape.

    Raises:
        DataError: timm is not installed, or has no such model.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise DataError(
            "model.name", f"{TIMM}{name} needs the package timm", "pip install 'hpo[timm]'"
        ) from None
    if not timm.is_model(name):
        raise DataError(
            "model.name",
            f"timm has no model {name!r}",
            did_you_mean(TIMM + name, (TIMM + each for each in timm.list_models())),
        )
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    sized = known is not None and known.fixed_input_size
    return {"in_chans": shape[0], **({"img_size": shape[1:]} if sized else {})}


def _of_timm(model: Mapping[str, Any], shape: tuple[int, ...], outputs: int) -> nn.Module:
    name = model["name"].removeprefix(TIMM)
    options = timm_options(name, shape)  # first, for it says so if there is no timm
    import timm

    for key, theirs in (("dropout", "drop_rate"), ("stochastic_depth", "drop_path_rate")):
        if model[key] is not None:
            options[theirs] = model[key]
            _check_taken(name, key, {theirs: model[key]})
    built: nn.Module = timm.create_model(name, pretrained=False, num_classes=outputs, **options)
    return built


def _check_taken(name: str, key: str, options: dict[str, Any]) -> None:
    import timm
    import torch

    try:
        with torch.device("meta"):
            timm.create_model(name, pretrained=False, **options)
    except TypeError:
        raise DataError(f"model.{key}", f"{TIMM}{name} takes no {key}", "leave it out") from None
    except NotImplementedError:
        pass  # it computes with its weights as it is made; but it did take the option
