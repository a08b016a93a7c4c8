"""EMA-GRPO: the group mean as baseline, a running standard deviation per task as scale (CamReasoner, equation 5)."""

from collections.abc import Sequence
from typing import Any

import torch

from rewards.advantages.grpo import group_ids, group_mean, group_std


class EmaGrpo:
    """A_i = (R_i - mean of its group) / sigma_task, sigma² = EMA[R²] - EMA[R]², one pair of averages per task.

    The defaults are the published code's behaviour: the averages take in the batch before it is scaled, and start at
    its first batch without bias correction.

    Args:
        decay: of the moving averages.
        min_std: lower bound of sigma.
        guard_abs_max: a group in which |A| exceeds it is scaled by its own standard deviation (the population's)
            instead; None switches the guard off.
        update: "before_scaling" (the published code) or "after_scaling" (a batch is scaled by what came before it;
            the first batch of a task by itself).
        bias_correction: start the averages at 0 and divide by 1 - decay^n, so that the first batch loses its weight
            as in Adam, instead of keeping decay^n of it.
    """

    def __init__(
        self,
        decay: float = 0.99,
        min_std: float = 1e-3,
        guard_abs_max: float | None = 5.0,
        update: str = "before_scaling",
        bias_correction: bool = False,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay} must be in [0, 1)")
        if update not in ("before_scaling", "after_scaling"):
            raise ValueError(f"update {update!r}: choose before_scaling or after_scaling")
        self.decay, self.min_std, self.guard_abs_max = decay, min_std, guard_abs_max
        self.update, self.bias_correction = update, bias_correction
        self._moments: dict[str, tuple[float, float, int]] = {}  # task -> EMA[R], EMA[R²], batches seen

    def advantages(self, scores_B: torch.Tensor, groups_B: Sequence[str], tasks_B: Sequence[str]) -> torch.Tensor:
        """(B,) advantages of scores (B,), and the averages moved on by this batch."""
        ids_B = group_ids(groups_B)
        task_names = list(dict.fromkeys(tasks_B))
        scores_of = {task: scores_B[torch.tensor([t == task for t in tasks_B])].double() for task in task_names}

        unseen = [task for task in task_names if task not in self._moments]
        for task in task_names if self.update == "before_scaling" else unseen:
            self._take_in(task, scores_of[task])
        sigma = {task: self.std(task) for task in task_names}
        if self.update == "after_scaling":
            for task in set(task_names) - set(unseen):
                self._take_in(task, scores_of[task])

        centred_B = scores_B - group_mean(scores_B, ids_B)
        advantages_B = centred_B / torch.tensor([sigma[task] for task in tasks_B], dtype=scores_B.dtype)
        if self.guard_abs_max is not None:
            over = torch.zeros(int(ids_B.max()) + 1).index_add_(
                0, ids_B, (advantages_B.abs() > self.guard_abs_max).float()
            )
            own_B = centred_B / group_std(scores_B, ids_B, unbiased=False).clamp_min(self.min_std)
            advantages_B = torch.where(over[ids_B] > 0, own_B, advantages_B)
        return advantages_B

    def _take_in(self, task: str, scores: torch.Tensor) -> None:
        mean, square = scores.mean().item(), (scores**2).mean().item()
        if task not in self._moments:
            start = (0.0, 0.0) if self.bias_correction else (mean, square)
            self._moments[task] = (*start, 0)
        first, second, seen = self._moments[task]
        keep = self.decay if (seen or self.bias_correction) else 0.0
        self._moments[task] = (
            keep * first + (1 - keep) * mean,
            keep * second + (1 - keep) * square,
            seen + 1,
        )

    def std(self, task: str) -> float:
        """Running standard deviation of a task's rewards, at least `min_std`."""
        first, second, seen = self._moments[task]
        if self.bias_correction:
            correction = 1 - self.decay**seen
            first, second = first / correction, second / correction
        return max(max(second - first**2, 0.0) ** 0.5, self.min_std)

    def metrics(self) -> dict[str, float]:
        """What is logged per step: sigma of each task."""
        return {f"ema/std/{task}": self.std(task) for task in sorted(self._moments)}

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: task -> first and second moment, batches seen."""
        return {task: list(moments) for task, moments in self._moments.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state; the next advantages equal those of an unbroken run."""
        self._moments = {task: (float(m), float(s), int(n)) for task, (m, s, n) in state.items()}
