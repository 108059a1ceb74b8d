"""Models of torchvision: `torchvision:resnet50`, `torchvision:resnet50(weights='IMAGENET1K_V1')`."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_choice, check_flag
from embedscope.errors import InputError, UsageError, explained
from embedscope.models._opening import no_image, not_adjustable, per_channel, quiet, unknown_among_many
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import ImagePreset, Pixels
from embedscope.plugins import imported

if TYPE_CHECKING:
    from torch import nn

    from embedscope.models.encoder import Preparation


def torchvision(location: str, /, *, pretrained: bool = True, weights: str | None = None, **options: Any) -> Encoder:
    """Create a torchvision model with pretrained weights and their preprocessing.

    Args:
        location: name of the model, as `torchvision.models.list_models()` has it.
        pretrained: fetch the weights; False leaves the model as it starts, for a checkpoint to fill. The preprocessing is that
            of the weights either way.
        weights: which weights, such as "IMAGENET1K_V1"; torchvision's default ones where None.
        options: of the model, such as num_classes.

    The embedding is the input of the last Linear, or of the whole classifier where that has none (squeezenet).

    Raises:
        UsageError: a model or weights that torchvision lacks (the nearest are given).
        InputError: options that the model does not take, or weights that cannot be fetched.
        MissingExtraError: torchvision is not installed.
    """
    models = imported("torchvision.models", extra="vision")
    check_flag("pretrained", pretrained)
    name = location.lower()
    if name not in models.list_models():
        raise UsageError(
            unknown_among_many("torchvision model", location, models.list_models(), "torchvision.models.list_models()")
        )
    known = models.get_model_weights(name)
    chosen = known.DEFAULT if len(known) else None
    if weights is not None:
        choice = weights.rpartition(".")[2] if isinstance(weights, str) else weights
        chosen = known[check_choice("weights", choice, ["DEFAULT", *known.__members__], place=f"torchvision's {name}")]
    advice = f"give `checkpoint=FILE`, or torchvision:{location}(pretrained=False) for random weights"
    if pretrained and chosen is None:
        raise InputError(f"torchvision has no pretrained weights for {name}; {advice}")
    if not pretrained and "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options.setdefault("weights_backbone", None)
    typed = ", ".join(f"{option}={value!r}" for option, value in options.items())
    problem = f"torchvision:{location}({typed}) cannot be created"
    with quiet("torchvision"), explained(problem, "the options are those of the model in torchvision.models"):
        try:
            model = models.get_model(name, weights=chosen if pretrained else None, progress=False, **options)
        except (OSError, RuntimeError, ValueError):
            if not pretrained:
                raise
            with explained(f"the pretrained weights of torchvision:{location}({typed}) cannot be loaded", advice):
                raise
    return Encoder(
        module=model.eval(),
        prepare=Pixels() if chosen is None else _preset(chosen.transforms()),
        spec=f"torchvision:{location}",
        weights=Weights(matched=tuple(model.state_dict()), origin=f"torchvision's {chosen}") if pretrained else None,
        embedding=_embedding(model),
    )


def _embedding(model: nn.Module) -> str | None:
    from torch import nn

    if any(isinstance(module, nn.Linear) for module in model.modules()):
        return None
    return "classifier.input" if hasattr(model, "classifier") else "output"


def _preset(
    preset: Any,
    *,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Preparation:
    """Wrap the transform of torchvision's weights, with another size, mean or std where given.

    A size is the one cut out; the shorter side is resized to what is in the weights' own proportion to its longer side.
    """
    kind = type(preset).__name__
    make: Any = functools.partial(_preset, preset)
    if kind not in ("ImageClassification", "SemanticSegmentation"):
        make = functools.partial(not_adjustable, f"torchvision's {kind} has none to change")
    if kind in ("VideoClassification", "OpticalFlow"):
        sentence = f"the model takes what torchvision's {kind} produces, not images; give float arrays as it takes them"
        return ImagePreset(functools.partial(no_image, sentence), 3, sentence, make)
    preset = copy.deepcopy(preset)
    if size is not None and hasattr(preset, "crop_size"):
        preset.resize_size = [round(max(size) * preset.resize_size[0] / preset.crop_size[0])]
        preset.crop_size = list(size)
    elif size is not None:
        preset.resize_size = list(size)
    if mean is not None:
        preset.mean = list(per_channel("mean", mean, 3))
    if std is not None:
        preset.std = list(per_channel("std", std, 3))
    made = " ".join(str(preset).split())
    return ImagePreset(preset, 3, f"torchvision's {made}; float array: as it is", make)
