"""A whole network and the data it is trained on, in the place of stored features: what differs from training a head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from embedscope import distributed
from embedscope.data.dataset import Dataset
from embedscope.errors import InputError, UsageError
from embedscope.finetuning.inputs import InputBank, Prepared, items, prepare_inputs
from embedscope.finetuning.validation import apply
from embedscope.models.encoder import Encoder, model_origin, weights_digest
from embedscope.models.network import Network, Plan, check_trainable, plan
from embedscope.models.normalization import own_statistics
from embedscope.models.precision import autocast_type
from embedscope.models.preparation import Pixels
from embedscope.progress import silent
from embedscope.store.features import FeatureSet
from embedscope.store.provenance import DataOrigin, LayerOrigin, Provenance
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from torch import Tensor

    from embedscope.finetuning.config import TrainingConfig
    from embedscope.progress import Track


@dataclass(frozen=True, eq=False)
class Given:
    """A network that is to be trained, as it was given: model, data, and the layer that is the embedding."""

    encoder: Encoder
    dataset: Dataset
    layer: str | None = None

    def on(self, other: Any) -> Given:
        """The same network for other data."""
        if not isinstance(other, Dataset):
            raise UsageError("the test rows of a network must be a data set from `open_dataset`")
        return Given(self.encoder, other, self.layer)


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with the inputs that it is trained or measured on.

    Attributes:
        encoder: as it was given.
        plan: which layer is the embedding, and which the classifier.
        inputs: all of the data set.
        features: their embedding (N, E) before training.
        digest: sha256 (hex) of what decides the features, but for rows and labels.
    """

    encoder: Encoder
    plan: Plan
    inputs: Prepared
    features: FeatureSet
    digest: str

    def bank(self, rows: FeatureSet) -> InputBank:
        """The inputs of some of the rows."""
        places = {name: position for position, name in enumerate(self.features.ids.tolist())}
        return InputBank(self.inputs, torch.tensor([places[name] for name in rows.ids.tolist()], dtype=torch.int64))

    def start(self, num_classes: int, train: str, seed: int) -> Network:
        """Make the network as it is before training; random weights are drawn with the seed."""
        return _start(self.encoder, self.plan, num_classes, train, seed)

    def backbone_rate(self, config: TrainingConfig) -> float:
        """The learning rate before the classifier: a tenth of the other's where weights were loaded, unless it is given."""
        if config.backbone_learning_rate is not None:
            return config.backbone_learning_rate
        return config.learning_rate * (1.0 if self.encoder.weights is None else 0.1)


def is_model(source: Any) -> bool:
    """Whether what is given to be trained is a model rather than features."""
    return isinstance(source, Encoder | nn.Module)


def given(model: Any, data: Any, layer: str | None) -> Given:
    """Take a model and a data set for a network to train; UsageError for anything else beside a model."""
    if not isinstance(data, Dataset):
        raise UsageError("a network is trained on a data set; pass `open_dataset(...)` along with the model")
    if isinstance(model, nn.Module):
        model = Encoder(module=model, prepare=Pixels(), spec=type(model).__name__)
    return Given(model, data, layer)


def opened(
    source: FeatureSet | Given,
    config: TrainingConfig,
    device: torch.device,
    memory: int,
    track: Track,
    beside: Subject | None = None,
    say: Callable[[str], None] = silent,
) -> tuple[Subject | None, FeatureSet]:
    """Return the features of all rows as they are before training, and the network if they are of one, see `open_subject`."""
    if isinstance(source, FeatureSet):
        return None, source
    subject = open_subject(source, config, device, memory, track, beside, say)
    return subject, subject.features


def open_subject(
    network: Given,
    config: TrainingConfig,
    device: torch.device,
    memory: int,
    track: Track,
    beside: Subject | None = None,
    say: Callable[[str], None] = silent,
) -> Subject:
    """Prepare the inputs, find the layers, and take the embedding of every input before training.

    Args:
        network: to train.
        config: how.
        device: that trains.
        memory: bytes that the inputs may take; if they take more, they are read again for every batch.
        track: reports progress over inputs.
        beside: the same network with the data to train on, if these are further data.
        say: called with a message about inputs that are read anew.

    Raises:
        InputError: a model that cannot be trained or does not take the data, or an input that cannot be read.
        UsageError: a layer that the model does not have.
    """
    encoder, dataset = network.encoder, network.dataset
    check_trainable(encoder)
    if not len(dataset.inputs):
        raise InputError(f"{dataset.location} has no inputs")
    if not (dataset.labels >= 0).any():
        raise InputError(f"{dataset.location} has {counted(len(dataset.labels), 'input')}, none of them labeled")
    where = beside.plan if beside else plan(encoder, encoder.prepare(items(dataset, [0])), network.layer, config.loss_layer)
    if config.amp and autocast_type(device) is not torch.bfloat16:
        raise InputError(f"{device} does not support bfloat16, which `amp=True` needs; omit it")
    if config.train != "head":
        refuse_shared_statistics(encoder)
    if config.loss_layer is not None and config.train != "all":
        _refuse_frozen_loss_layer(encoder, where, config, encoder.prepare(items(dataset, [0])))
    inputs = prepare_inputs(dataset, encoder.prepare, device, memory, track, say)
    start = _start(encoder, where, 2, "all", config.seed).to(device).eval()
    bank = InputBank(inputs, torch.arange(len(dataset.inputs)))
    embedding, *_ = apply(start, bank, torch.zeros(len(dataset.inputs), dtype=torch.int64), track, "embedding before training")
    return Subject(encoder, where, inputs, _features(encoder, dataset, where, embedding), _digest(encoder, dataset, where))


def refuse_shared_statistics(encoder: Encoder) -> None:
    """Raise UsageError for BatchNorm under torchrun whose statistics cannot be those of the whole batch."""
    name = own_statistics(encoder.module) if distributed.world_size() > 1 else None
    if name is not None:
        kind = type(encoder.module.get_submodule(name)).__name__
        raise UsageError(
            f"{name} of {encoder.spec} is a {kind}, whose statistics would cover only the part of the batch on each "
            f"process; train it in one process"
        )


def _refuse_frozen_loss_layer(encoder: Encoder, where: Plan, config: TrainingConfig, sample: Any) -> None:
    """Raise UsageError for a loss layer that nothing trained comes before: its terms would have no gradient."""
    network = _start(encoder, where, 2, config.train, config.seed).eval()
    network(sample)
    if network.loss_rows is not None and not network.loss_rows[0].requires_grad:
        raise UsageError(
            f"with train='{config.train}' no layer up to `loss_layer={config.loss_layer}` is trained; train more, or all"
        )


def _start(encoder: Encoder, where: Plan, num_classes: int, train: str, seed: int) -> Network:
    module = None if encoder.remake is None else encoder.remake(seed)
    return Network(encoder, where, num_classes, train, module)


def _features(encoder: Encoder, dataset: Dataset, where: Plan, embedding: Tensor) -> FeatureSet:
    module = encoder.module.get_submodule(where.layer.module)
    return FeatureSet(
        name=dataset.location,
        source=dataset.location,
        layer=where.layer.name,
        features=embedding,
        labels=dataset.labels,
        class_names=dataset.class_names,
        ids=np.array(list(dataset.ids), dtype=object),
        split=None if dataset.split is None else np.array(list(dataset.split), dtype=object),
        provenance=Provenance(
            model=model_origin(encoder),
            data=DataOrigin(dataset.location, dataset.fingerprint),
            layers={where.layer.name: LayerOrigin(type(module).__name__, where.pooling.name, where.pooling.shape)},
            transform=encoder.prepare.text,
        ),
    )


def _digest(encoder: Encoder, dataset: Dataset, where: Plan) -> str:
    """Hash what decides the features: sha256 (hex)."""
    parts = (encoder.spec, weights_digest(encoder), encoder.prepare.text, dataset.fingerprint, where.layer, where.pooling)
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "backslashreplace")).hexdigest()
