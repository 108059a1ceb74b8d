"""Inputs of kinds of plot, without files."""

import numpy as np
import pytest
import torch

from embedscope.plotting.inputs import Embedding
from embedscope.store.features import FeatureSet


@pytest.fixture
def embed():
    """Make an Embedding of arrays; all rows are shown unless some are named."""

    def make(features, labels, *, name="one", shown=None, class_names=None, ids=None, magnitudes=None, layer="embedding"):
        labels = np.asarray(labels, dtype=np.int64)
        features = torch.as_tensor(np.asarray(features), dtype=torch.float64)
        return Embedding(
            FeatureSet(
                name=name,
                source=f"{name}.h5",
                layer=layer,
                features=features,
                labels=labels,
                class_names=tuple(class_names or map(str, range(labels.max() + 1))),
                ids=np.array(ids or [f"row{row}" for row in range(len(labels))], dtype=object),
                magnitudes=None if magnitudes is None else torch.as_tensor(magnitudes),
            ),
            np.arange(len(labels)) if shown is None else np.asarray(shown),
        )

    return make
