"""How far are silhouettes of float32 features from those of the same numbers in float64? Largest error of any sample."""

import torch

from embedscope.metrics.silhouette import silhouette_samples
from embedscope.metrics.soft_silhouette import soft_silhouette_samples

N, D = 4000, 256


def cases() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for classes in (10, 1000):
        labels = torch.arange(N) % classes
        centers, noise = torch.randn(classes, D, generator=generator), torch.randn(N, D, generator=generator)
        ordinary = centers[labels] + noise
        found |= {
            f"ordinary, K = {classes}": (ordinary, labels),
            f"shifted by 1000, K = {classes}": (ordinary + 1000, labels),
            f"clusters of radius 1e-3, K = {classes}": (centers[labels] + 1e-3 * noise, labels),
            f"the same, in pairs, K = {classes}": (centers[labels // 2] + 1e-3 * (noise + 3 * centers[labels]), labels),
            f"each row twice or more, K = {classes}": (ordinary[torch.randint(N // 3, (N,), generator=generator)], labels),
            f"collapsed classes, K = {classes}": (centers[labels], labels),
            f"one row at 1e6, K = {classes}": (torch.cat([torch.full((1, D), 1e6), ordinary[1:]]), labels),
            f"one class at 1e4, K = {classes}": (ordinary + 1e4 * (labels == 3)[:, None], labels),
            f"times 1e-30, K = {classes}": (ordinary * 1e-30, labels),
            f"2 dimensions, K = {classes}": (ordinary[:, :2].contiguous(), labels),
        }
    return found


def main() -> None:
    print(f"N = {N}, D = {D}; largest error of any sample, float32 against float64")
    print(f"{'features':42} {'silhouette':>12} {'soft, unit rows':>16}")
    for name, (features, labels) in cases().items():
        errors = [
            float((measure(features, labels) - measure(features.double(), labels)).abs().max())
            for measure in (silhouette_samples, lambda x, y: soft_silhouette_samples(x, y, softmin="lme"))
        ]
        print(f"{name:42} {errors[0]:12.1e} {errors[1]:16.1e}")


if __name__ == "__main__":
    main()
