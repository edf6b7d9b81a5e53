"""Training without labels: a pruned or rounded network learns to answer as the float one does.

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015). Both see the same variation of
each sample, so that few samples go a long way (Beyer et al., "Knowledge distillation: A good
teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from weft.errors import InputError, UsageError
from weft.torch.augment import Augment
from weft.torch.pruning import Pruner

LEAST_SIZE = 1e-3  # root mean square that a parameter's learning rate follows, at least
WARM_UP = 0.1  # share of the steps in which learning rates rise

Variation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `steps` of `batch` samples.

    `rate` is the highest learning rate of a parameter whose root mean square is 1; of others it is
    as many times that as they are large, so that a network on pixels of 0 to 255 and one on 0 to 1
    train alike. It rises and falls once (Smith, 2018). `temperature` softens the answers.
    """

    steps: int = 600
    batch: int = 64
    rate: float = 0.03
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or min(self.rate, self.temperature) <= 0:
            raise UsageError(f"{self}: steps and batch of 1 or more, rate and temperature above 0")


def distill(
    student: nn.Module,
    teacher: nn.Module,
    samples: torch.Tensor,
    schedule: Schedule | None = None,
    *,
    augment: Variation | None = None,
    pruner: Pruner | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Trains `student`, which is changed, to answer as `teacher`; the loss of each step.

    Both give logits [..., classes], no probabilities. `samples` [n, ...] need no labels; `augment`
    varies a batch of them (`Augment()` if None). Masks of `weft.torch.prune` stay, and grow with
    `pruner`; a module of `weft.torch.prepare` learns with its roundings. Both are left in eval
    mode. The same `seed` gives the same result. `progress` hears (steps done, steps in all).

    Raises InputError without samples, UsageError where the two answer in different shapes.
    """
    if not len(samples):
        raise InputError("no samples to distill with: give at least one batch of inputs")
    plan, vary = schedule or Schedule(), augment or Augment()
    generator = torch.Generator().manual_seed(seed)
    optimizer, rates = _optimizer(student, plan)
    teacher.eval()
    student.train()
    losses = []
    for step in range(plan.steps):
        chosen = torch.randint(len(samples), (plan.batch,), generator=generator)
        x = vary(samples[chosen], generator)
        with torch.no_grad():
            wanted = teacher(x)
        loss = divergence(student(x), wanted, plan.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if pruner is not None:
            pruner.step()
        losses.append(float(loss.detach()))
        progress(step + 1, plan.steps)
    student.eval()
    return losses


def divergence(found: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of softened answers, times the temperature squared.

    The factor keeps gradients as large as those of a loss without softening (Hinton et al.,
    section 2). Raises UsageError where the shapes differ.
    """
    if found.shape != wanted.shape:
        raise UsageError(
            f"the student answers with {list(found.shape)}, the teacher with {list(wanted.shape)}: "
            "both must give the same logits"
        )
    ours, theirs = (
        functional.log_softmax(y.reshape(-1, y.shape[-1]) / temperature, dim=1)
        for y in (found, wanted)
    )
    loss = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return loss * temperature**2


def _optimizer(
    student: nn.Module, plan: Schedule
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam with a learning rate for each parameter, and what makes them rise and fall."""
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained:
        raise UsageError("the student has no parameters that can be trained")
    sizes = [float(p.detach().square().mean().sqrt()) for p in trained]
    most = [plan.rate * max(size, LEAST_SIZE) for size in sizes]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(trained, most, strict=True)]
    optimizer = torch.optim.Adam(groups)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, most, total_steps=plan.steps + 1, pct_start=WARM_UP
    )
    return optimizer, rates
