"""What does the silhouette loss cost, beside cross-entropy in a training step and beside SupCon by itself?"""

import torch
from _timing import side_by_side
from pytorch_metric_learning.losses import SupConLoss

from embedscope.losses.expression import build
from embedscope.models.head import build_head

CLASSES = 100
STEPS = 20


def main() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(512, 512), torch.randint(CLASSES, (512,))

    def training(expression: str):
        head = build_head("mlp(256, 128)", 512, CLASSES, 1.0)
        objective = build(expression, CLASSES, 128)
        optimizer = torch.optim.AdamW([*head.parameters(), *objective.parameters()], lr=1e-3)

        def steps() -> None:
            for _ in range(STEPS):
                embedding, logits = head(features)
                value = objective(embedding, labels, logits)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()

        return steps

    print(
        f"{STEPS} training steps, batch 512, D = 512, head mlp(256, 128), {CLASSES} classes, {torch.get_num_threads()} threads"
    )
    expressions = ("ce", "ce + silhouette", "ce + 0.5*gini + 0.5*class_kl", "0.5*ce + 0.5*latent_boost", "ce + supcon")
    medians = side_by_side({expression: training(expression) for expression in expressions}, runs=9)
    for expression in expressions[1:]:
        print(f"  {expression} against ce: {medians[expression] / medians['ce']:.2f}")

    print("forward and backward of the loss alone, D = 128")
    for batch in (512, 1024, 2048, 4096):
        rows, codes = torch.randn(batch, 128), torch.randint(CLASSES, (batch,))
        repeats = 4096 // batch
        ours, peer = build("silhouette", CLASSES, 128), SupConLoss()

        def silhouette(rows=rows, codes=codes, repeats=repeats, ours=ours) -> None:
            for _ in range(repeats):
                ours(rows.clone().requires_grad_(), codes, rows[:, :1]).backward()

        def supcon(views, rows=rows, codes=codes, repeats=repeats, peer=peer):
            rows, codes = torch.cat([rows] * views), torch.cat([codes] * views)

            def run() -> None:
                for _ in range(repeats):
                    peer(rows.clone().requires_grad_(), codes).backward()

            return run

        found = side_by_side(
            {f"silhouette, batch {batch}": silhouette, "SupCon, one view": supcon(1), "SupCon, two views": supcon(2)}, runs=7
        )
        own, one, two = found.values()
        print(f"  against two views {own / two:.3f} (wanted 0.12), against one view {own / one:.2f} (wanted 0.7)")


if __name__ == "__main__":
    main()
