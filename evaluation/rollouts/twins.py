"""What recorded rollouts earn by the answers to their question's twin, or by its contrast, as the trainer counts it."""

from collections import defaultdict
from collections.abc import Sequence

from evaluation.rollouts.records import Rollout
from rewards.reading import chosen_option
from rewards.relation import Answer, relations
from rewards.scorer import Scorer
from rewards.temporal import temporal


def relate(records: Sequence[Rollout], components: list[dict[str, float]], scorer: Scorer, weight: float) -> None:
    """Add the relation to the twin's answers."""
    answers = []
    for record in records:
        sample, parsed = record.sample, scorer.parse(record.response, record.sample)
        counterpart = (sample.get("extras") or {}).get("counterpart")
        asked = counterpart is not None and parsed.ok
        chosen = chosen_option(parsed.answer or "", sample["options"]) if asked else None
        answers.append(Answer(f"{record.step} {record.group}", counterpart, chosen))
    for found, relation in zip(components, relations(answers)):
        if relation is not None:
            found |= {"relation": relation, "score": found["score"] + weight * relation}


def contrast(records: Sequence[Rollout], components: list[dict[str, float]], bonus: float, ratio: float) -> None:
    """Add T-GRPO's temporal reward; answers about shuffled frames are not recorded, their accuracy is."""
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        groups[record.step, record.group].append(row)
    for rows in groups.values():
        shuffled = records[rows[0]].components.get("shuffled_accuracy")
        earned = [0.0] * len(rows)
        if shuffled is not None:
            earned = temporal([components[row]["accuracy"] for row in rows], shuffled, ratio)
        for row, value in zip(rows, earned):
            components[row] |= {"temporal": value, "score": components[row]["score"] + bonus * value}
            components[row] |= {} if shuffled is None else {"shuffled_accuracy": shuffled}
