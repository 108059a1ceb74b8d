"""Models of timm: `timm:resnet50`, `timm:vit_small_patch16_224(num_classes=0)`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_flag
from embedscope.errors import UsageError, explained
from embedscope.models._opening import no_image, per_channel, quiet, unknown_among_many
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import ImagePreset
from embedscope.plugins import imported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def timm(location: str, /, *, pretrained: bool = True, **options: Any) -> Encoder:
    """Create a timm model with pretrained weights and its evaluation preprocessing.

    Images are made RGB, or gray where `in_chans=1`, resized and cut out as timm's `create_transform` does for evaluation. With
    another number of channels than the pretrained ones, mean and std are the pretrained means over channels.

    Args:
        location: name of the model, with the tag of its weights where wanted (`resnet18.a1_in1k`), or `hf-hub:owner/name`.
        pretrained: fetch the pretrained weights; False leaves the model as it starts, for a checkpoint to fill.
        options: of `timm.create_model`, such as num_classes, in_chans, img_size, drop_path_rate.

    The embedding is what goes into the classifier, or the output if the model has none (`num_classes=0`).

    Raises:
        UsageError: a name that timm lacks (the nearest are given).
        InputError: options that the model does not take, or weights that cannot be fetched.
        MissingExtraError: timm is not installed.
    """
    library = imported("timm", extra="vision")
    check_flag("pretrained", pretrained)
    if "checkpoint_path" in options:
        raise UsageError("checkpoint_path is not supported, because timm would unpickle the file; use `checkpoint=`")
    _check_name(library, location)
    with quiet("timm", "huggingface_hub"):
        model = _created(library, location, pretrained, options)
    classifier = _classifier(model)
    weights = None
    if pretrained:
        fresh = _fresh(model)
        names = tuple(model.state_dict())
        weights = Weights(
            matched=tuple(name for name in names if name not in fresh),
            missing=tuple(name for name in names if name in fresh),
            origin=f"timm's pretrained weights {model.pretrained_cfg.get('tag') or ''}".strip(),
        )
    outputs = getattr(model, "num_classes", None) == 0
    return Encoder(
        module=model.eval(),
        prepare=_preset(_data_config(library, model, options)),
        spec=f"timm:{location}",
        weights=weights,
        embedding="output" if outputs else classifier and f"{classifier}.input",
    )


def _check_name(library: ModuleType, location: str) -> None:
    """Raise UsageError for a name or a tag that timm lacks; names with a scheme are looked up elsewhere."""
    if ":" in location:
        return
    name, _, tag = location.partition(".")
    if not library.is_model(name):
        raise UsageError(unknown_among_many("timm model", name, library.list_models(), "timm.list_models()"))
    tags = [full.partition(".")[2] for full in library.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise UsageError(unknown_among_many(f"pretrained weights of {name}", tag, tags, f"timm.list_pretrained('{name}.*')"))


def _created(library: ModuleType, location: str, pretrained: bool, options: Mapping[str, Any]) -> Any:
    typed = ", ".join(f"{name}={value!r}" for name, value in options.items())
    with explained(
        f"timm:{location}({typed}) cannot be created", "the options are those of timm.create_model and of the model itself"
    ):
        if not pretrained:
            return library.create_model(location, pretrained=False, **options)
        try:
            return library.create_model(location, pretrained=True, **options)
        except (TypeError, AssertionError):
            raise
        except Exception:  # what a hub, a cache or a server raises has no common root
            with explained(
                f"the pretrained weights of timm:{location} cannot be loaded",
                f"give `checkpoint=FILE`, or timm:{location}(pretrained=False) for random weights",
            ):
                raise


def _classifier(model: Any) -> str | None:
    """Name the module whose input is the embedding, the first of several, or None if timm knows of none."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else None
    first = found[0] if isinstance(found, tuple | list) else found
    return next((name for name, module in model.named_modules() if module is first and name), None)


def _fresh(model: Any) -> frozenset[str]:
    """Name what timm does not take from pretrained weights: the classifier, where it has other classes than they have."""
    config = model.pretrained_cfg
    if model.num_classes == config.get("num_classes") or not config.get("classifier"):
        return frozenset()
    prefixes = (config["classifier"],) if isinstance(config["classifier"], str) else tuple(config["classifier"])
    return frozenset(name for name in model.state_dict() if name.startswith(tuple(f"{prefix}." for prefix in prefixes)))


def _data_config(library: ModuleType, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give timm's own data configuration of a model, with the channels and the size that its options ask for."""
    config = dict(library.data.resolve_model_data_config(model))
    channels, height, width = config["input_size"]
    channels = options.get("in_chans", channels)
    if "img_size" in options:
        size = options["img_size"]
        height, width = (size, size) if isinstance(size, int) else size
    for name in ("mean", "std"):
        if len(config[name]) != channels:
            config[name] = (sum(config[name]) / len(config[name]),) * channels
    return {**config, "input_size": (channels, height, width)}


def _preset(
    config: Mapping[str, Any],
    *,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ImagePreset:
    """Build timm's evaluation transform of a data configuration, with another size, mean or std where given."""
    channels, height, width = config["input_size"]
    config = {
        **config,
        "input_size": (channels, *(size or (height, width))),
        "mean": per_channel("mean", mean or config["mean"], channels),
        "std": per_channel("std", std or config["std"], channels),
    }
    make = functools.partial(_preset, config)
    if channels not in (1, 3):
        sentence = f"the model takes {channels} channels, but images have 1 or 3; give arrays of floats as the model takes them"
        return ImagePreset(functools.partial(no_image, sentence), 3, sentence, make)
    transform = imported("timm.data", extra="vision").create_transform(**config, is_training=False)
    steps = "; ".join(str(step) for step in transform.transforms)
    return ImagePreset(transform, channels, f"timm's evaluation transform: {steps}; float array: as it is", make)
