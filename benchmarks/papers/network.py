"""The network of the Latent Boost paper for Fashion-MNIST (arXiv:2412.08515, appendix A.1), with 64 latent dimensions.

The paper takes the latent features "from the flattening layer", and says that there are 64 of them; two convolutions with
pooling leave 1,600 numbers to flatten. Here the latent layer is a fully connected one of width 64 between the flattening and
the classifier, after its ReLU: the reading in which both "64" and "just before the classification section" hold. Taking the
flattened maps themselves keeps the words and loses the 64; averaging 64 maps over positions keeps the 64 and loses the
flattening. Widths of the convolutions are not in the paper; these give its accuracy.
"""

from torch import nn


def LatentNet() -> nn.Module:  # noqa: N802 (a factory, as embedscope takes it)
    """(B, 1, 28, 28) -> (B, 10) logits; the embedding is the (B, 64) input of the last Linear."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(1600, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
