"""What do the objectives of the papers do to a network that is trained with them from the start, on Fashion-MNIST?

Trains the network of the Latent Boost paper with each objective and several seeds, by `finetune` on the network itself, and
compares every objective with cross-entropy seed by seed: the same start, the same validation rows and the same batches.

    python benchmarks/papers/objectives.py FOLDER_WITH_IDX_FILES OUTPUT_FOLDER

The default is 20,000 training images, 8 epochs and 3 seeds, too few for a verdict. `--full` is the paper's protocol: all
images, five seeds, Adam, the learning rate divided by 5 after 10 epochs without a better validation, and a stop after 20.
Batch size, learning rate and the share of validation rows are not in the paper.

Every finished training is a line of OUTPUT_FOLDER/results.jsonl and is not done again; a training that was killed resumes. The
report is written to OUTPUT_FOLDER/report.md whenever the program ends, and by itself with `--report`.
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path

import numpy as np

from embedscope.errors import InterruptedRunError

OBJECTIVES = {
    "ce": "ce",
    "ce + silhouette": "ce + 0.5*silhouette",
    "supcon + silhouette": "supcon + 0.5*silhouette",
    "gini + kl": "ce + 0.5*gini@{start} + 0.5*class_kl@{start}",
    "magnet": "0.25*ce + 0.75*magnet",
    "latent boost": "0.25*ce + 0.75*latent_boost",
    "supcon": "supcon",
    "gini + kl, convolution": "ce + 0.5*gini@{start} + 0.5*class_kl@{start}",
    "gini, convolution": "ce + 0.5*gini@{start}",
    "kl, convolution": "ce + 0.5*class_kl@{start}",
}
# The paper of Gini and KL applies both to the last convolution, and its code reads that after the ReLU, before pooling.
CONVOLUTION = "5"
METRICS = ("silhouette", "soft_silhouette", "gini", "class_kl")
SHOWN = ("accuracy", "macro_f1", "knn_accuracy", *METRICS)
PLATEAU = "plateau(factor=0.2, patience=10)"
FULL = {"rows": 60_000, "test_rows": 10_000, "epochs": 100, "seeds": 5, "patience": 20}
SHORT = {"rows": 20_000, "test_rows": 10_000, "epochs": 8, "seeds": 3, "patience": None}
BATCH_SIZE, LEARNING_RATE = 128, 1e-3
# The paper of Gini and KL switches both on after 10 epochs; shorter trainings do so after a quarter.
START = 10
# Of the accuracy that cross-entropy reaches. Its best epoch is a lucky one: a little less tells more.
SHARES = (1.0, 0.99, 0.95)


def main() -> None:
    """Train what is missing, and write the report."""
    options = parsed()
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    protocol = {key: getattr(options, key) for key in ("rows", "test_rows", "epochs", "patience")}
    check(output, protocol)
    try:
        if not options.report:
            train(options, output)
    except InterruptedRunError:
        print("interrupted; the same command resumes", file=sys.stderr)
    finally:
        lines = results(output)
        if lines:
            text = report(lines, protocol, validation_curves(output, lines))
            (output / "report.md").write_text(text)
            print(text)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with the idx files of Fashion-MNIST")
    parser.add_argument("output", help="folder for runs, results.jsonl and report.md")
    parser.add_argument("--full", action="store_true", help="the paper's protocol")
    parser.add_argument("--rows", type=int, help="training images, the first ones")
    parser.add_argument("--test-rows", type=int, help="test images, the first ones")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--objective", action="append", choices=OBJECTIVES, help="only these; may be repeated")
    parser.add_argument("--report", action="store_true", help="write the report of what is finished, and train nothing")
    options = parser.parse_args()
    for key, value in (FULL if options.full else SHORT).items():
        if getattr(options, key, None) is None:
            setattr(options, key, value)
    return options


def check(output: Path, protocol: dict[str, object]) -> None:
    """Keep the protocol beside the results, and refuse another one in the same folder."""
    path = output / "protocol.json"
    if path.exists() and json.loads(path.read_text()) != protocol:
        sys.exit(f"{output} holds results of another protocol: {path.read_text()}; choose another folder")
    path.write_text(json.dumps(protocol))


def train(options: argparse.Namespace, output: Path) -> None:
    """Train every pair of seed and objective that has no line yet, seed by seed."""
    from embedscope.data import open_dataset
    from embedscope.finetuning import finetune
    from embedscope.models import open_model

    data = subset(options.data, output, options.rows, options.test_rows)
    done = {(line["objective"], line["seed"]) for line in results(output)}
    for seed in range(options.seeds):
        for name in options.objective or OBJECTIVES:
            if (name, seed) in done:
                continue
            run = folder_of(output, name, seed)
            run.parent.mkdir(exist_ok=True)
            objective = OBJECTIVES[name].format(start=min(START, max(1, options.epochs // 4)))
            result = finetune(
                open_model(f"{Path(__file__).parent / 'network.py'}:LatentNet", seed=seed),
                open_dataset(str(data)),
                run,
                objectives=objective,
                loss_layer=CONVOLUTION if name.endswith("convolution") else None,
                metrics=METRICS,
                epochs=options.epochs,
                batch_size=BATCH_SIZE,
                optimizer="adamw",
                weight_decay=0.0,  # which makes it Adam
                learning_rate=LEARNING_RATE,
                schedule=PLATEAU,
                patience=options.patience,
                select_by="accuracy",
                seed=seed,
                resume=run.with_name(f"{run.name}.partial").exists(),
                overwrite=True,
            )
            ((trial,),) = (each.trials for each in result.objectives)
            line = {
                "objective": name,
                "expression": objective,
                "seed": seed,
                "epochs": trial.epochs,
                "best_epoch": trial.best_epoch,
                "seconds": round(trial.seconds, 1),
                "after": dict(trial.after),
            }
            with (output / "results.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            shown = ", ".join(f"{key} {trial.after[key]:.4f}" for key in ("accuracy", "silhouette"))
            print(f"seed {seed}, {name}: {shown}, {trial.epochs} epochs, {trial.seconds:.0f} s", file=sys.stderr, flush=True)


def folder_of(output: Path, name: str, seed: int) -> Path:
    """Return the run directory of a training."""
    return output / "runs" / f"{re.sub(r'[^a-z]+', '-', name)}-{seed}"


def subset(folder: str, output: Path, rows: int, test_rows: int) -> Path:
    """Write the first images of each split to one file, once."""
    from embedscope.data import open_dataset

    path = output / "images.npz"
    if not path.exists():
        whole = open_dataset(folder)
        split = np.array(list(whole.split))
        kept = np.concatenate([np.flatnonzero(split == name)[:count] for name, count in (("train", rows), ("test", test_rows))])
        images = np.stack([np.asarray(whole.inputs[row]) for row in kept.tolist()])
        names = np.array(whole.class_names)
        np.savez(path.with_suffix(".partial.npz"), X=images, y=names[whole.labels[kept]], split=split[kept])
        path.with_suffix(".partial.npz").rename(path)
    return path


def results(output: Path) -> list[dict[str, object]]:
    """Read the finished trainings; a line that was cut short when the program was killed is left out."""
    path = output / "results.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def validation_curves(output: Path, lines: list[dict[str, object]]) -> dict[tuple[str, int], list[float]]:
    """Read the validation accuracy of every epoch from the logs of the runs: (objective, seed) -> values."""
    found = {}
    for line in lines:
        for path in folder_of(output, line["objective"], line["seed"]).glob("*/trial-0/log.csv"):
            with path.open(newline="") as file:
                found[line["objective"], line["seed"]] = [float(row["val_accuracy"]) for row in csv.DictReader(file)]
    return found


def report(lines: list[dict[str, object]], protocol: dict[str, object], curves: dict[tuple[str, int], list[float]]) -> str:
    """Lay out means, paired differences to cross-entropy, and how soon its accuracy is reached, as Markdown."""
    from embedscope.ops.paired import mean_and_std

    by_name = {name: {line["seed"]: line for line in lines if line["objective"] == name} for name in OBJECTIVES}
    by_name = {name: found for name, found in by_name.items() if found}
    text = [f"Fashion-MNIST, {', '.join(f'{key} {value}' for key, value in protocol.items())}", ""]
    text += ["| objective | seeds | epochs | " + " | ".join(SHOWN) + " |", "|---|---:|---:|" + "---:|" * len(SHOWN)]
    for name, found in by_name.items():
        cells = []
        for key in SHOWN:
            values = [line["after"][key] for line in found.values() if line["after"][key] is not None]
            mean, std = mean_and_std(values) if values else (float("nan"), None)
            cells.append(f"{mean:.4f}" + ("" if std is None else f" ± {std:.4f}"))
        epochs = np.mean([line["epochs"] for line in found.values()])
        expression = next(iter(found.values()))["expression"]
        text.append(f"| {name} `{expression}` | {len(found)} | {epochs:.1f} | " + " | ".join(cells) + " |")
    others = [name for name in by_name if name != "ce"]
    text += ["", "Differences to ce, paired by seed:", "", *verdicts(by_name, "ce", others)]
    if {"supcon", "supcon + silhouette"} <= set(by_name):
        text += ["", "Difference to supcon, paired by seed:", "", *verdicts(by_name, "supcon", ["supcon + silhouette"])]
    text += ["", *speeds({name: sorted(found) for name, found in by_name.items()}, curves)]
    return "\n".join(text) + "\n"


def verdicts(by_name: dict[str, dict[object, dict[str, object]]], base: str, others: list[str]) -> list[str]:
    """Compare accuracy and silhouette of some objectives with those of another one, seed by seed."""
    from embedscope.finetuning.comparing import LEAST_PAIRS
    from embedscope.ops.paired import paired_difference

    said = ["| objective | metric | difference | 95%, all at once | verdict |", "|---|---|---:|---:|---|"]
    for name in others:
        seeds = sorted(set(by_name[name]) & set(by_name.get(base, {})))
        for key in ("accuracy", "silhouette"):
            ours, theirs = ([by_name[each][seed]["after"][key] for seed in seeds] for each in (name, base))
            if not seeds:
                continue
            gap = paired_difference(ours, theirs, comparisons=len(others))
            interval, verdict = "–", f"none: {len(seeds)} of {LEAST_PAIRS} seeds"
            if gap.simultaneous is not None:
                low, high = gap.simultaneous
                interval = f"[{low:+.4f}, {high:+.4f}]"
                if len(seeds) >= LEAST_PAIRS:
                    verdict = "higher" if low > 0 else "lower" if high < 0 else "no difference shown"
            said.append(f"| {name} | {key} | {gap.difference:+.4f} | {interval} | {verdict} |")
    return said


def reached(curve: list[float], goal: float) -> float:
    """Return the first epoch, from 1, whose value is at least the goal; infinity if none is."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if value >= goal), float("inf"))


def speeds(seeds: dict[str, list[int]], curves: dict[tuple[str, int], list[float]]) -> list[str]:
    """Compare, seed by seed, the epochs until a share of the best validation accuracy that cross-entropy has in that seed."""
    said = ["Epochs until a share of the best validation accuracy of ce with the same seed; – is never:", ""]
    said += ["| objective | share | epochs | ce | sooner | as soon | later | never |", "|---|---:|---|---|---:|---:|---:|---:|"]
    for name in [each for each in seeds if each != "ce"]:
        pairs = [
            (curves[name, seed], curves["ce", seed]) for seed in seeds[name] if {(name, seed), ("ce", seed)} <= set(curves)
        ]
        for share in SHARES if pairs else ():
            epochs = [[reached(curve, share * max(base)) for curve in (ours, base)] for ours, base in pairs]
            ours, theirs = ([one[place] for one in epochs] for place in (0, 1))
            shown = [", ".join("–" if each == float("inf") else f"{each}" for each in row) for row in (ours, theirs)]
            sides = [np.sign(one - other) for one, other in epochs]
            never = ours.count(float("inf"))
            counts = [sides.count(-1), sides.count(0), sides.count(1) - never, never]
            said.append(f"| {name} | {share:.0%} | {shown[0]} | {shown[1]} | " + " | ".join(map(str, counts)) + " |")
    return said


if __name__ == "__main__":
    main()
