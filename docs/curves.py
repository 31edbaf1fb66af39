"""Makes ``docs/curves.png``: a small GPT learns to write Python, and its run draws what it has logged.

``python docs/curves.py [FOLDER]`` leaves the run in FOLDER, by default in a temporary one.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from asyncckpt import AsyncCheckpointer, RetentionPolicy, Run, SavePolicy
from asyncckpt.cli.demo_model import GPT, SIZES, Windows, standard_library
from asyncckpt.metrics_log import read_metrics
from asyncckpt.plots import training_curves
from asyncckpt.trackers import JsonLinesTracker

STEPS, WARMUP, EVERY, VALIDATED = 600, 40, 20, 12
WIDTH = 1000
"""Of the picture, in points."""


def rate(step: int) -> float:
    """The part of the learning rate that is used at `step`: up, and down again."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - WARMUP) / (STEPS - WARMUP))).item())


def train(root: Path) -> None:
    """Train, and leave the run in `root`."""
    torch.manual_seed(1)
    model = GPT(SIZES["quick"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    batches, unseen = (Windows(text, SIZES["quick"]) for text in _halves())
    keep, save = RetentionPolicy(last=2, best=1), SavePolicy(every_steps=100)
    with Run.open(root, config={"size": "quick", "steps": STEPS, "lr": 3e-3}, name="python") as run:
        trackers = run.trackers(JsonLinesTracker(root / "logs"))
        with AsyncCheckpointer(
            run, model=model, optimizer=optimizer, scheduler=scheduler, save=save, keep=keep,
            monitor=("val_loss", "min"),
        ) as ckpt:  # fmt: skip
            for step in range(1, STEPS + 1):
                loss = _loss(model, batches)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step(), scheduler.step(), optimizer.zero_grad()
                metrics = {"train_loss": loss, "lr": scheduler.get_last_lr()[0], "grad_norm": norm}
                if step % EVERY == 0:
                    metrics |= _validated(model, unseen)
                trackers.log(step, metrics)
                ckpt.step(step, metrics=metrics if "val_loss" in metrics else None)
            ckpt.wait()
            best = ckpt.best()
        run.save_results(best.metrics if best else {})


def _halves() -> tuple[torch.Tensor, torch.Tensor]:
    text = standard_library()
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


@torch.no_grad()
def _validated(model: GPT, windows: Windows) -> dict[str, torch.Tensor]:
    losses, hits = [], []
    for inputs, targets in (next(windows) for _ in range(VALIDATED)):
        scores = model(inputs).flatten(0, 1)
        losses.append(F.cross_entropy(scores, targets.flatten()))
        hits.append((scores.argmax(1) == targets.flatten()).float().mean())
    return {"val_loss": torch.stack(losses).mean(), "val_accuracy": torch.stack(hits).mean()}


def _loss(model: GPT, windows: Windows) -> torch.Tensor:
    inputs, targets = next(windows)
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else folder, "run")
        train(root)
        picture = training_curves(read_metrics(root / "logs"), "A small GPT learns Python")
    # Smaller, for a page: fewer points and fewer colors.
    with Image.open(io.BytesIO(picture)) as whole:
        small = whole.convert("RGB").resize((WIDTH, whole.height * WIDTH // whole.width), Image.Resampling.LANCZOS)
        small.quantize(160, Image.Quantize.MAXCOVERAGE).save(Path(__file__).with_name("curves.png"), optimize=True)


if __name__ == "__main__":
    main()
