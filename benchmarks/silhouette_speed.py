"""How fast is the exact silhouette, against scikit-learn and against nothing but the matrix product?"""

import sys
from pathlib import Path

import torch
from sklearn.metrics import silhouette_samples as sklearn_samples

from embedscope.metrics.silhouette import silhouette_samples

sys.path.insert(0, str(Path(__file__).parent))
from _timing import side_by_side

N = 20_000


def blobs(width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (N,), generator=generator)
    centers = torch.randn(classes, width, generator=generator)
    return torch.randn(N, width, generator=generator) + centers[labels], labels


def product(features: torch.Tensor, block: int) -> None:
    """The limit: one float32 product of N x D by D x N in blocks of rows, into one buffer, and nothing else."""
    out = torch.empty(block, len(features))
    for start in range(0, len(features), block):
        rows = features[start : start + block]
        torch.mm(rows, features.T, out=out[: len(rows)])


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, N = {N:,}, float32")
    euclidean(128, 10)
    euclidean(512, 1000)
    cosine()
    many_classes()


def euclidean(width: int, classes: int) -> None:
    features, labels = blobs(width, classes)
    print(f"Euclidean, D = {width}, K = {classes}")
    ours = side_by_side(
        {
            "product alone, blocks of 512 rows": lambda: product(features, 512),
            "product alone, blocks of 2048 rows": lambda: product(features, 2048),
            "embedscope": lambda: silhouette_samples(features, labels),
        },
        runs=7,
    )
    x, y = features.numpy(), labels.numpy()
    peer = side_by_side(
        {"embedscope": lambda: silhouette_samples(features, labels), "scikit-learn": lambda: sklearn_samples(x, y)}, runs=3
    )
    limit = min(value for name, value in ours.items() if name.startswith("product"))
    error = (silhouette_samples(features, labels) - silhouette_samples(features.double(), labels)).abs().max()
    print(f"  {peer['scikit-learn'] / peer['embedscope']:.1f} times as fast as scikit-learn; ", end="")
    print(f"{ours['embedscope'] / limit:.2f} of the faster product alone; largest error {float(error):.1e}")


def cosine() -> None:
    features, labels = blobs(512, 100)
    x, y = features.numpy(), labels.numpy()
    print("cosine, D = 512, K = 100")
    found = side_by_side(
        {
            "embedscope": lambda: silhouette_samples(features, labels, distance="cosine"),
            "scikit-learn": lambda: sklearn_samples(x, y, metric="cosine"),
        },
        runs=3,
    )
    print(f"  {found['scikit-learn'] / found['embedscope']:.0f} times as fast as scikit-learn")


def many_classes() -> None:
    features = torch.randn(30_000, 64, generator=torch.Generator().manual_seed(0))
    print("Euclidean, N = 30,000, D = 64, K = 15,000 (two rows a class)")
    side_by_side({"embedscope": lambda: silhouette_samples(features, torch.arange(30_000) % 15_000)}, runs=1)


if __name__ == "__main__":
    main()
