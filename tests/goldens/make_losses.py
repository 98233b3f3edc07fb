"""Writes losses.json beside itself: students' losses and schedules by PyTorch and NumPy, in double
precision, for the tests of `src/distill/validate`.

Run from the repository's root as `python -m tests.goldens.make_losses`. Formulas as the methods'
published code has them: the KL divergence of SRe2L's Tiny-ImageNet code (times the squared
temperature), LPQLD's two temperatures and its choice of the student's, GIFT's loss, cross entropy
to smoothed classes of mixed views (timm's Mixup, as HALD uses it), and the learning rates of
`torch.optim.lr_scheduler`.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

STUDENT = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 4.0, 0.5]], dtype=torch.float64)
OWN, PARTNER, SHARE = torch.tensor([2, 0]), torch.tensor([0, 2]), 0.7


def kl(
    teacher_temperature: float,
    student_temperature: float,
    student: torch.Tensor = STUDENT,
) -> torch.Tensor:
    target = F.log_softmax(TEACHER / teacher_temperature, dim=1)
    return F.kl_div(
        F.log_softmax(student / student_temperature, dim=1),
        target,
        reduction="batchmean",
        log_target=True,
    )


def smoothed_ce(smoothing: float) -> torch.Tensor:
    def smooth(classes: torch.Tensor) -> torch.Tensor:
        return F.one_hot(classes, 3).double() * (1 - smoothing) + smoothing / 3

    target = SHARE * smooth(OWN) + (1 - SHARE) * smooth(PARTNER)
    return -(target * F.log_softmax(STUDENT, dim=1)).sum(1).mean()


def gift(smoothing: float, weight: float, *, mixed: bool) -> torch.Tensor:
    def smooth(classes: torch.Tensor) -> torch.Tensor:
        labels = torch.full((2, 3), smoothing / 2, dtype=torch.float64)
        return labels.scatter_(1, classes.unsqueeze(1), 1 - smoothing)

    labels = (
        SHARE * smooth(OWN) + (1 - SHARE) * smooth(PARTNER) if mixed else smooth(OWN)
    )
    target = F.normalize(TEACHER, dim=1) + weight * F.normalize(labels, dim=1)
    return 1 - F.cosine_similarity(STUDENT, target, dim=1).mean()


def fitted(teacher_temperature: float) -> float:
    """The temperature that LPQLD's code gives to a student whose logits are 0.2 of the teacher's
    and 0.05 of STUDENT."""
    candidates, student = np.linspace(0.01, 1, 100), 0.2 * TEACHER + 0.05 * STUDENT
    return float(
        candidates[
            np.argmin([kl(teacher_temperature, t, student).item() for t in candidates])
        ]
    )


def rates(schedule: str, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    if schedule == "warmup":
        rise = LinearLR(optimizer, start_factor=0.01, total_iters=5)
        scheduler = SequentialLR(
            optimizer, [rise, CosineAnnealingLR(optimizer, epochs - 5)], milestones=[5]
        )
    elif schedule == "linear":
        scheduler = LambdaLR(optimizer, lambda step: 1 - step / epochs)
    else:  # EDC's cos2 with a smoothing of 2

        def cos2(step: int) -> float:
            if step <= epochs * 5 / 6:
                return 0.5 * (1 + math.cos(math.pi * step / (2 * epochs)))
            return 0.5 * (1 + math.cos(math.pi * 5 / 12)) * (epochs - step) / epochs

        scheduler = LambdaLR(optimizer, cos2)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def main() -> None:
    values = {
        "kl_t_squared": (kl(4, 4) * 16).item(),
        "kl_two_temperatures": kl(4, 0.5).item(),
        "smoothed_ce": smoothed_ce(0.8).item(),
        "gift": gift(0.1, 0.1, mixed=False).item(),
        "gift_mixed": gift(0.1, 0.1, mixed=True).item(),
        "fitted": {temperature: fitted(temperature) for temperature in (2, 3, 20)},
        "cooled": {
            epoch: max(20 * 0.7 ** (epoch // 30), 2)
            for epoch in (1, 29, 30, 59, 60, 120, 200, 210, 300)
        },
        "rates": {name: rates(name, 30) for name in ("warmup", "linear", "cos2")},
    }
    (Path(__file__).parent / "losses.json").write_text(
        json.dumps(values, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
