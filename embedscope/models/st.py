"""Models of sentence-transformers: `st:all-MiniLM-L6-v2`, `st:path/to/folder`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from embedscope.arguments import check_flag
from embedscope.errors import InputError, UsageError, explained, unknown
from embedscope.models._exactness import check_folder
from embedscope.models._opening import check_torchvision, quiet
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.hf import check_adapter, check_location, check_texts, hf
from embedscope.plugins import imported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def st(
    location: str,
    /,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Encoder:
    """Open a sentence-transformers model from a folder or the Hub.

    Its embedding is the output of `encode`.

    Args:
        location: folder that holds `modules.json`, or name on the hub.
        prompt: put before every text; "" for none, where the model has a default one.
        prompt_name: of one of the model's own prompts; by default the model's default prompt, if it has one.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that the model brings.
        options: of `SentenceTransformer`.

    Raises:
        UsageError: a prompt that the model does not have, or both a prompt and the name of one.
        InputError: no such model, or no network to fetch it, or options that it does not take.
        MissingExtraError: sentence-transformers is not installed.
    """
    check_torchvision()
    library = imported("sentence_transformers", extra="text")
    if int(library.__version__.partition(".")[0]) < 6:  # it tokenizes without the prompts that encode adds
        raise InputError(
            f"sentence-transformers {library.__version__} is too old; 6.0 or later is needed: pip install -U 'embedscope[text]'"
        )
    check_flag("trust_remote_code", trust_remote_code)
    if prompt is not None and prompt_name is not None:
        raise UsageError("give st: either prompt or prompt_name, not both")
    check_location("st", location)
    for folder in ("", "[0-9]*_*/"):  # of the model, or of one of its modules
        check_adapter(f"st:{location}", next(Path(location).glob(f"{folder}adapter_config.json"), None))
    advice = (
        "give a folder with modules.json, or a name on the hub with network access; a model with custom code needs "
        "(trust_remote_code=True), if you trust its author"
    )
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    with (
        quiet("transformers", "huggingface_hub", "sentence_transformers"),
        explained(f"st:{location} cannot be opened", advice),
    ):
        check_folder(f"st:{location}", Path(location))
        model = library.SentenceTransformer(location, **{"device": "cpu", **options, **where})
        made_up = not library.util.is_sentence_transformer_model(location, revision=revision)
    name = prompt_name or (model.default_prompt_name if prompt is None else None)
    if name is not None and name not in model.prompts:
        raise UsageError(unknown("prompt", name, model.prompts, place=f"st:{location}"))
    prepare = _Sentences(_without_weights(model[0]), prompt if name is None else model.prompts[name])
    return Encoder(
        module=model.eval(),
        prepare=prepare,
        spec=f"st:{location}",
        weights=_weights(model, location, made_up, where),
        call=partial(_embedded, constants=prepare.constants()),
        embedding="output.sentence_embedding",
    )


def _weights(model: nn.Module, location: str, made_up: bool, where: dict[str, Any]) -> Weights:
    """Say what was filled: all, but for a plain transformer: what its file lacks, sentence-transformers tells nobody."""
    names = tuple(model.state_dict())
    missing: set[str] = set()
    notes: tuple[str, ...] = ()
    if made_up:
        notes = (f"{location} is not a sentence-transformers model: the mean over its tokens is used as the embedding",)
        plain = hf(location, modality="text", **where)
        start = next((name for name, child in model.named_modules() if type(child) is type(plain.module)), "")
        missing = {f"{start}.{name}" for name in plain.weights.missing} if plain.weights else set()
    return Weights(
        matched=tuple(name for name in names if name not in missing),
        missing=tuple(name for name in names if name in missing),
        origin=f"sentence-transformers: {location}",
        notes=notes,
    )


def _embedded(module: nn.Module, batch: Mapping[str, Tensor], *, constants: Mapping[str, Any]) -> Any:
    """Run the modules on a dictionary of their own, into which each writes what it makes, and cut as `encode` does."""
    output = module({**batch, **constants})
    width = getattr(module, "truncate_dim", None)
    return {**output, "sentence_embedding": output["sentence_embedding"][..., :width]} if width else output


def _without_weights(first: nn.Module) -> nn.Module:
    """Copy the module that tokenizes, its tensors without their contents: a worker process needs none of them."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), False) for parameter in first.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in first.buffers()}
    return copy.deepcopy(first, memo)


@dataclass(frozen=True)
class _Sentences:
    """Text through what the first module of a SentenceTransformer does before its forward.

    Attributes:
        first: that module, without weights.
        prompt: put before every text, or None.
    """

    first: Any
    prompt: str | None

    @property
    def text(self) -> str:
        """Whose tokenizer, its limit and the prompt, for the record."""
        limit = getattr(self.first, "max_seq_length", None)
        before = f", after the prompt {self.prompt!r}" if self.prompt else ""
        return f"text: tokenized by sentence-transformers' {type(self.first).__name__}, cut to {limit} tokens{before}"

    def __call__(self, items: Sequence[Any] | Tensor) -> dict[str, Tensor]:
        """Prepare B texts -> {"input_ids": (B, T) int64, "attention_mask": (B, T) int64, ...}."""
        return {name: value for name, value in self._features(check_texts(items)).items() if isinstance(value, Tensor)}

    def constants(self) -> dict[str, Any]:
        """Give what the modules read beside tensors, the same for every batch: the modality, the length of the prompt."""
        return {name: value for name, value in self._features(["text"]).items() if not isinstance(value, Tensor)}

    def _features(self, texts: list[str]) -> dict[str, Any]:
        return dict(self.first.preprocess(texts, prompt=self.prompt or None))
