"""Overlap of time spans and of boxes."""

from collections.abc import Sequence

from rewards.reading import Box, Span


def temporal_iou(predicted: Span, gold: Span) -> float:
    """Intersection over union of two spans (VideoChat-R1, equation 4)."""
    return union_iou([predicted], [gold])


def union_iou(predicted: Sequence[Span], gold: Sequence[Span]) -> float:
    """Intersection over union of the unions of both lists of spans.

    Example:
        >>> union_iou([(0, 2), (1, 4)], [(2, 6)])
        0.3333333333333333
    """
    predicted, gold = _merged(predicted), _merged(gold)
    common = sum(max(0.0, min(p[1], g[1]) - max(p[0], g[0])) for p in predicted for g in gold)
    covered = sum(end - start for start, end in predicted) + sum(end - start for start, end in gold) - common
    return min(1.0, common / covered)


def _merged(spans: Sequence[Span]) -> Sequence[Span]:
    merged: list[list[float]] = []
    for start, end in sorted((span[0], span[1]) for span in spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    return merged


def box_iou(predicted: Box, gold: Box) -> float:
    """Intersection over union of two boxes; 0 where `predicted` has no area."""
    width, height = predicted[2] - predicted[0], predicted[3] - predicted[1]
    if width <= 0 or height <= 0:
        return 0.0
    common = max(0.0, min(predicted[2], gold[2]) - max(predicted[0], gold[0]))
    common *= max(0.0, min(predicted[3], gold[3]) - max(predicted[1], gold[1]))
    covered = width * height + (gold[2] - gold[0]) * (gold[3] - gold[1]) - common
    return min(1.0, common / covered)
