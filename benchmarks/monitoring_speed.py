"""What does a Monitor cost: in a step where nothing is due, and against extract and score by hand?

Run alone, on an idle machine: `python benchmarks/monitoring_speed.py`. A step is one of a small convolutional network on a CPU;
a loop with and without a monitor is run in turn, so that a drift of the machine meets both alike.
"""

import statistics
import time

import torch
from _timing import side_by_side
from torch import nn

import embedscope as es

ROWS, SIZE, CLASSES = 2_000, 32, 10
METRICS = ["silhouette", "effective_rank"]


class Net(nn.Module):
    """A small network for 32 x 32 images; the embedding is the (B, 256) input of `fc`."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 256, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(256, CLASSES)

    def forward(self, images):
        return self.fc(self.body(images))


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(ROWS, 3, SIZE, SIZE, generator=generator), torch.arange(ROWS) % CLASSES
    torch.manual_seed(0)
    net = Net()

    calls = es.Monitor((rows, labels), metrics=METRICS, every=10**9)
    calls(net, 0)
    started = time.perf_counter()
    for step in range(1, 1_000_001):
        calls(net, step)
    call = (time.perf_counter() - started) / 1e6

    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def train() -> float:
        started = time.process_time()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(rows[:16]), labels[:16]).backward()
        optimizer.step()
        return time.process_time() - started

    step_seconds = statistics.median(train() for _ in range(50))
    print(f"a call that is not due: {call * 1e9:.0f} ns; a step of 16 images: {step_seconds * 1e3:.1f} ms of CPU")
    print(f"  loop with a monitor over the bare loop: {1 + call / step_seconds:.6f} (wanted: at most 1.01)")

    monitor = es.Monitor((rows, labels), metrics=METRICS)
    loader = [(rows[start : start + 256], labels[start : start + 256]) for start in range(0, ROWS, 256)]

    def by_hand() -> None:
        es.score(es.extract(net, loader), metrics=METRICS, device="cpu")

    print(f"an evaluation of {ROWS:,} rows, two metrics, CPU time")
    times = side_by_side({"monitor": lambda: monitor.measure(net, 0), "extract + score": by_hand}, 5, clock=time.process_time)
    print(f"  monitor over extract and score by hand: {times['monitor'] / times['extract + score']:.3f} (wanted: at most 1.1)")


if __name__ == "__main__":
    main()
