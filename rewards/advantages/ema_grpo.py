"""EMA-GRPO: the group mean as baseline, a running standard deviation per task as scale (CamReasoner, equation 5)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from rewards.advantages.base import Advantages, Batch, group_ids, group_mean, group_std


class EmaGrpo:
    """A_i = (R_i - mean of its group) / sigma_task, sigma² = EMA[R²] - EMA[R]², one pair of averages per task.

    The defaults are the published code's behaviour: the averages are updated with a batch before it is scaled, and
    start at the first batch without bias correction.

    Args:
        decay: of the moving averages.
        min_std: lower bound of sigma.
        guard_abs_max: a group in which |A| exceeds it is scaled by its own standard deviation (the population's)
            instead; None switches the guard off.
        update: "before_scaling" (the published code) or "after_scaling" (a batch is scaled by the averages before it;
            the first batch of a task by itself).
        bias_correction: start the averages at 0 and divide by 1 - decay^n, so that the first batch loses its weight
            as in Adam, instead of keeping decay^n of it.

    Example:
        >>> batch = Batch(torch.tensor([1.0, 0.0, 1.0, 1.0]), groups_B=["a", "a", "b", "b"], tasks_B=["binary"] * 4)
        >>> estimator = EmaGrpo()
        >>> estimator.advantages(batch).response_B  # sigma = sqrt(3) / 4
        tensor([ 1.1547, -1.1547,  0.0000,  0.0000])
        >>> estimator.state_dict()  # mean, mean square, batches
        {'binary': [0.75, 0.75, 1]}
    """

    reads: frozenset[str] = frozenset()

    def __init__(
        self,
        decay: float = 0.99,
        min_std: float = 1e-3,
        guard_abs_max: float | None = 5.0,
        update: Literal["before_scaling", "after_scaling"] = "before_scaling",
        bias_correction: bool = False,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay} must be in [0, 1)")
        if update not in ("before_scaling", "after_scaling"):
            raise ValueError(f"update {update!r}: choose before_scaling or after_scaling")
        self.decay, self.min_std, self.guard_abs_max = decay, min_std, guard_abs_max
        self.update, self.bias_correction = update, bias_correction
        self._moments: dict[str, tuple[float, float, int]] = {}  # task -> EMA[R], EMA[R²], batches seen
        self._metrics: dict[str, float] = {}

    def advantages(self, batch: Batch) -> Advantages:
        """The same for all tokens of a response; updates the averages with this batch."""
        scores_B, groups_B, tasks_B, judged_B = batch.scores_B, batch.groups_B, batch.tasks_B, batch.judged_B
        ids_B, task_ids_B = group_ids(groups_B, judged_B), group_ids(tasks_B)
        names = list(dict.fromkeys(tasks_B))
        counted_B = torch.ones_like(scores_B, dtype=torch.bool) if judged_B is None else judged_B.bool()
        moments = self._batch_moments(scores_B[counted_B], task_ids_B[counted_B], names)

        before = [task for task in moments if self.update == "before_scaling" or task not in self._moments]
        for task in before:
            self._update(task, *moments[task])
        sigma_T = torch.tensor([self.std(task) if task in self._moments else 1.0 for task in names], dtype=torch.double)
        for task in moments:
            if task not in before:
                self._update(task, *moments[task])

        centred_B = scores_B - group_mean(scores_B, ids_B)
        advantages_B = centred_B / sigma_T[task_ids_B]
        guarded = 0
        if self.guard_abs_max is not None:
            over_G = torch.bincount(ids_B, weights=(advantages_B.abs() > self.guard_abs_max).double()) > 0
            if guarded := int(over_G.sum()):
                own_B = centred_B / group_std(scores_B, ids_B, unbiased=False).clamp_min(self.min_std)
                advantages_B = torch.where(over_G[ids_B], own_B, advantages_B)
        self._metrics = {
            **{f"ema/batch_std/{task}": max(square - mean**2, 0.0) ** 0.5 for task, (mean, square) in moments.items()},
            "ema/guard_hits": float(guarded),
        }
        return Advantages(advantages_B.to(scores_B.dtype))

    @staticmethod
    def _batch_moments(
        scores_B: torch.Tensor, task_ids_B: torch.Tensor, names: Sequence[str]
    ) -> dict[str, tuple[float, float]]:
        """Mean and mean square of each task that has scores."""
        scores_B = scores_B.double()
        sums = [torch.bincount(task_ids_B, weights, len(names)).tolist() for weights in (None, scores_B, scores_B**2)]
        return {task: (first / n, second / n) for task, n, first, second in zip(names, *sums) if n}

    def _update(self, task: str, mean: float, square: float) -> None:
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
        return max(float(max(second - first**2, 0.0) ** 0.5), self.min_std)

    def metrics(self) -> dict[str, float]:
        """Sigma of each task; the last batch's standard deviation by task, and how many of its groups hit the guard."""
        return {f"ema/std/{task}": self.std(task) for task in sorted(self._moments)} | self._metrics

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: task -> first and second moment, batches seen."""
        return {task: list(moments) for task, moments in self._moments.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state: the next advantages equal those of an uninterrupted run."""
        self._moments = {task: (float(m), float(s), int(n)) for task, (m, s, n) in state.items()}
