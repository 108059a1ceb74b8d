"""Models of transformers, for images and for text: `hf:facebook/dinov2-small`, `hf:path/to/folder`."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_flag, check_number
from embedscope.errors import InputError, explained
from embedscope.models._exactness import check_folder
from embedscope.models._opening import check_torchvision, quiet
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.images import eight_bits, reading, standard, to_tensor
from embedscope.models.preparation import as_image, stack
from embedscope.plugins import imported

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# Modality -> what a model of both has: its tower, the Linear after that, and the method that runs the two.
_TOWERS = {
    "image": ("vision_model", "visual_projection", "get_image_features"),
    "text": ("text_model", "text_projection", "get_text_features"),
}


def hf(
    location: str,
    /,
    *,
    pretrained: bool = True,
    modality: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    max_length: int | None = None,
    **options: Any,
) -> Encoder:
    """Open a transformers model from a folder or the Hub in float32, with its processor or tokenizer.

    Models of images and text (CLIP, SigLIP) run one half: the embedding is the projection, or else the pooled output. Models
    that encode and decode text (T5) run the encoder. For all others, the embedding is the first output, `last_hidden_state`.

    Args:
        location: folder that holds `config.json`, or name on the hub.
        pretrained: load the weights; False leaves the model as its configuration starts, for a checkpoint to fill.
        modality: "image" or "text"; by default what there is a processor for, images first.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that the model brings.
        max_length: tokens that a text is cut to; by default what tokenizer and model allow.
        options: of `AutoModel.from_pretrained`, such as attn_implementation.

    Raises:
        UsageError: a modality or a length that cannot be.
        InputError: no such model, no processor for it, weights of other shapes, or no network to fetch them.
        MissingExtraError: transformers is not installed.
    """
    library = imported("transformers", extra="hf")
    check_torchvision()
    if int(library.__version__.partition(".")[0]) < 5:  # it names missing weights otherwise, so that they would go unnoticed
        raise InputError(
            f"transformers {library.__version__} is too old; 5.0 or later is needed: pip install -U 'embedscope[hf]'"
        )
    check_flag("pretrained", pretrained)
    check_flag("trust_remote_code", trust_remote_code)
    if modality is not None:
        check_choice("modality", modality, _TOWERS)
    if max_length is not None:
        check_number("max_length", max_length, low=1)
    check_location("hf", location)
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    advice = (
        "give a folder with config.json, or a name on the hub with network access; a model with custom code needs "
        "(trust_remote_code=True), if you trust its author"
    )
    # The parts of transformers are imported on first use, and fail there if they are broken.
    with quiet("transformers", "huggingface_hub"), explained(f"hf:{location} cannot be opened", advice):
        config = library.AutoConfig.from_pretrained(location, **where)
        check_adapter(f"hf:{location}", library.utils.find_adapter_config_file(location, revision=revision))
        if pretrained:
            check_folder(f"hf:{location}", Path(location))
        modality, processor = _processor(library, location, modality, where)
        model, weights = _loaded(library, location, config, pretrained, {**where, **options})
    part, call, embedding = _half(model, modality)
    module = model.get_submodule(part)
    keys = tuple(inspect.signature(getattr(module, _TOWERS[modality][2]) if call else module.forward).parameters)
    if modality == "image":
        channels = getattr(getattr(config, "vision_config", config), "num_channels", 3)
        prepare: Any = _Images(processor, 1 if channels == 1 else 3, keys)
    else:
        prepare = _tokens(processor, module, config, max_length, keys)
    return Encoder(
        module=module.eval(),
        prepare=prepare,
        spec=f"hf:{location}",
        weights=weights and _of_part(weights, part),
        call=call,
        embedding=embedding,
    )


def check_location(source: str, location: str) -> None:
    """Raise InputError for a path to a folder that does not exist; libraries would ask the hub for it."""
    if not Path(location).is_dir() and (location.startswith((".", "/", "~")) or location.count("/") > 1 or "\\" in location):
        raise InputError(f"no such folder: {location}; {source}: takes a folder, or a name on the hub such as owner/name")


def check_adapter(what: str, found: Any) -> None:
    """Raise InputError if an adapter was found and peft is not installed, without which transformers leaves it out."""
    if found and importlib.util.find_spec("peft") is None:
        raise InputError(
            f"{what} holds an adapter ({found}), which would be ignored without peft; pip install peft, or merge it into the "
            "base model with merge_and_unload() and save the result"
        )


def _processor(library: ModuleType, location: str, modality: str | None, where: dict[str, Any]) -> tuple[str, Any]:
    """Load the image processor or the tokenizer that lies beside a model, and say which it is."""
    loaders = {"image": library.AutoImageProcessor, "text": library.AutoTokenizer}
    reasons = []
    for kind in [modality] if modality else loaders:
        try:
            return kind, loaders[kind].from_pretrained(location, **where)
        except Exception as error:  # OSError, ValueError, KeyError, ImportError: by kind of model and of what is absent
            reasons.append(f"{kind}: {str(error).strip().partition(chr(10))[0][:120]}")
    wanted = {"image": "image processor", "text": "tokenizer", None: "image processor and no tokenizer"}[modality]
    raise InputError(f"hf:{location} has no {wanted} that can be loaded ({'; '.join(reasons)}); save one with the model")


def _loaded(
    library: ModuleType, location: str, config: Any, pretrained: bool, options: dict[str, Any]
) -> tuple[nn.Module, Weights | None]:
    """Make the model in float32: its weights, and what they fill, or as its configuration starts."""
    if not pretrained:
        options.pop("revision")
        return library.AutoModel.from_config(config, **options).float(), None
    model, report = library.AutoModel.from_pretrained(location, dtype=torch.float32, **options, output_loading_info=True)
    names = tuple(model.state_dict())
    reported = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    missing = {name for name in reported if name in names}
    if missing != reported:
        raise InputError(
            f"hf:{location}: transformers reports weights that the model does not have as missing: {reported - missing}"
        )
    commit = getattr(model.config, "_commit_hash", None)
    weights = Weights(
        matched=tuple(name for name in names if name not in missing),
        missing=tuple(name for name in names if name in missing),
        left_over=tuple(sorted(report["unexpected_keys"])),
        origin=f"transformers: {location}" + (f" at {commit}" if commit else ""),
    )
    return model, weights


def _half(model: nn.Module, modality: str) -> tuple[str, Any, str]:
    """Choose what runs: the name of the submodule, how it is called (None: by its forward), and what the embedding is."""
    tower, projection, _ = _TOWERS[modality]
    if all(hasattr(model, name) for name, _, _ in _TOWERS.values()):
        if hasattr(model, projection):
            return "", _image_features if modality == "image" else _text_features, projection
        return tower, None, "output.pooler_output"
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "encoder"):
        return "encoder", None, "output"
    return "", None, "output"


def _image_features(module: Any, batch: dict[str, Tensor]) -> Any:
    return module.get_image_features(**batch)


def _text_features(module: Any, batch: dict[str, Tensor]) -> Any:
    return module.get_text_features(**batch)


def _of_part(weights: Weights, part: str) -> Weights:
    """Keep what concerns one submodule, under the names that it has there."""
    start = f"{part}." if part else ""
    matched, missing = (
        tuple(name.removeprefix(start) for name in names if name.startswith(start))
        for names in (weights.matched, weights.missing)
    )
    return Weights(matched=matched, missing=missing, left_over=weights.left_over, origin=weights.origin)


@dataclass(frozen=True)
class _Images:
    """Images through a model's own processor; arrays of floats are taken to be prepared already.

    Attributes:
        processor: of transformers.
        channels: that images are brought to first: 3 for RGB, or 1.
        keys: what the model takes by name.
        value_range: what is black and white in images of more than 8 bits, or None for what their mode implies.
    """

    processor: Any
    channels: int
    keys: tuple[str, ...]
    value_range: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """The processor and its values, for the record."""
        hidden = ("image_processor_type", "processor_class", "_processor_class")
        values = {name: value for name, value in self.processor.to_dict().items() if value is not None and name not in hidden}
        shown = ", ".join(f"{name}={value}" for name, value in sorted(values.items()))
        mode = "RGB" if self.channels == 3 else "gray"
        rounded = "" if self._takes_floats else ", rounded to 8 bits"
        return (
            f"image: {mode}; {type(self.processor).__name__}({shown}); float array: as it is; "
            f"{reading(self.value_range)}{rounded}"
        )

    def __call__(self, items: Sequence[Any] | Tensor) -> dict[str, Tensor]:
        """Prepare B images -> {"pixel_values": (B, C, H, W) float32, ...}."""
        if all(isinstance(item, Tensor) and item.is_floating_point() for item in items):
            return {"pixel_values": stack([item.float() for item in items])}
        images = [standard(as_image(item), self.channels, self.value_range) for item in items]
        deep = [image.mode == "F" for image in images]
        if any(deep) and self._takes_floats:
            # Pixels of 8 bits are rounded after resizing and floats are not, so that each kind goes through by itself.
            given = [
                to_tensor(image, self.channels) * 255 if floats else image for image, floats in zip(images, deep, strict=True)
            ]
            parts = [self._processed([image]) for image in given]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return self._processed([eight_bits(image).convert("RGB" if self.channels == 3 else "L") for image in images])

    @property
    def _takes_floats(self) -> bool:
        """Whether the processor works on tensors: those that work on Pillow's images would make 8 bits of them."""
        names = {parent.__name__ for parent in type(self.processor).__mro__}
        return bool(names & {"TorchvisionBackend", "BaseImageProcessorFast"})

    def _processed(self, images: list[Any]) -> dict[str, Tensor]:
        batch = self.processor(images=images, return_tensors="pt")
        return {name: batch[name] for name in self.keys if name in batch}


@dataclass(frozen=True)
class _Tokens:
    """Text through a model's own tokenizer, padded to the longest of the batch.

    Attributes:
        tokenizer: of transformers.
        max_length: tokens that a text is cut to, or None for as many as it has.
        keys: what the model takes by name.
        note: how the tokenizer was changed, or "".
    """

    tokenizer: Any
    max_length: int | None
    keys: tuple[str, ...]
    note: str

    @property
    def text(self) -> str:
        """The tokenizer and its limit, for the record."""
        cut = "not cut" if self.max_length is None else f"cut to {self.max_length} tokens"
        return (
            f"text: {type(self.tokenizer).__name__} of {self.tokenizer.name_or_path}, {cut}, padded to the longest{self.note}"
        )

    def __call__(self, items: Sequence[Any] | Tensor) -> dict[str, Tensor]:
        """Prepare B texts -> {"input_ids": (B, T) int64, "attention_mask": (B, T) int64, ...}."""
        batch = self.tokenizer(
            check_texts(items),
            padding=True,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {name: batch[name] for name in self.keys if name in batch}


def check_texts(items: Sequence[Any] | Tensor) -> list[str]:
    """Return items as a list if all are str, else raise an InputError that says what one is."""
    other = next((item for item in items if not isinstance(item, str)), None)
    if other is not None:
        raise InputError(f"the model takes text, but the data are {type(other).__name__}; give a table with a text column")
    return list(items)


def _tokens(tokenizer: Any, module: nn.Module, config: Any, max_length: int | None, keys: tuple[str, ...]) -> _Tokens:
    """Set up tokenization: a pad token if it lacks one, and the length that both tokenizer and positions allow."""
    note = ""
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise InputError(
            f"{tokenizer.name_or_path} has no vocabulary, so all words would be encoded alike; save the model's tokenizer "
            f"with it"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has neither a pad nor an eos token; set one and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token
        note = f" with its eos token {tokenizer.eos_token}, because it has no pad token"
    positions = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    if positions:
        # RoBERTa and its kin count positions from after the padding index, and have that many more of them.
        starts = [
            child.padding_idx + 1
            for name, child in module.named_modules()
            if name.endswith("position_embeddings") and isinstance(child, nn.Embedding) and child.padding_idx is not None
        ]
        positions -= max(starts, default=0)
    limits = [limit for limit in (tokenizer.model_max_length, positions) if limit and limit < 10**9]  # 1e30 stands for none
    if max_length is not None and positions and max_length > positions:
        raise InputError(f"max_length={max_length} is more than the {positions} positions of the model")
    return _Tokens(tokenizer, max_length or min(limits, default=None), keys, note)
