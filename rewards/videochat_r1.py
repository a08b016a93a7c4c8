"""VideoChat-R1's rewards, one per kind of task (sections 3.2 and 3.3); joint training mixes the tasks in a batch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from rewards.judges.protocol import event_recall
from rewards.reading import boxes, spans
from rewards.response import ParsedResponse
from rewards.tasks import accuracy, glue_iou

if TYPE_CHECKING:
    from rewards.judges.protocol import Judge

JUDGED_TASKS = ("caption",)


def schema(task: str, *, prompt: Literal["thinking", "direct"] = "thinking") -> str:
    """Of the responses to a task; grounded QA asks for the evidence (<glue>) too.

    Args:
        prompt: what the model was asked for: "thinking" (<think> before <answer>) or "direct" (<answer> alone).
    """
    name = {"thinking": "think_answer", "direct": "answer"}[prompt]
    return f"{name}_glue" if task == "grounded_qa" else name


async def reward(
    response: ParsedResponse, sample: Mapping[str, Any], *, judge: "Judge | None" = None
) -> dict[str, float]:
    """The sum of the task's rewards; all of them are 0 when the response is malformed.

    R_st  = R_format + R_IoU              temporal grounding, spatial grounding, tracking
    R_qa  = R_format + R_accuracy         options, quality, and every other task that a rule scores
    R_gqa = R_format + R_IoU + R_accuracy grounded QA: the answer, and the spans in <glue>
    R_cap = R_format + R_recall           captions, by the judge

    Args:
        response: as parsed by the schema of the sample's task.
        sample: a sample's fields.
        judge: is asked which events a caption states; other tasks need none.

    Returns:
        `score`; `format` in {0, 1} (grounded QA: the glue must be spans; tracking: the answer one box for each gold
        box); `accuracy` in [0, 1], the task's own (IoU, equality or recall); `glue_iou` in [0, 1], 0 for the tasks
        without glue.

    Raises:
        ValueError, KeyError: a malformed sample, or a caption without a judge; never because of the response.
        JudgeError: by the judge; also of one that leaves captions unjudged, since they have no other reward.

    Example:
        >>> import asyncio
        >>> from rewards.response import parse
        >>> sample = {"task": "temporal_grounding", "spans": [[2.0, 6.0]]}
        >>> response = parse("<think>t</think><answer>4 to 6</answer>", schema("temporal_grounding"))
        >>> asyncio.run(reward(response, sample))
        {'score': 1.5, 'format': 1.0, 'accuracy': 0.5, 'glue_iou': 0.0}
    """
    grounded = sample["task"] == "grounded_qa"
    if not response.ok or not _readable(response.parts, sample):
        return {"score": 0.0, "format": 0.0, "accuracy": 0.0, "glue_iou": 0.0}
    iou = glue_iou(response.parts["glue"], sample) if grounded else 0.0
    if sample["task"] == "caption":
        acc = await _recall(response.parts["answer"], sample, judge)
    else:
        acc = accuracy(response.parts["answer"], sample)
    return {"score": 1.0 + acc + iou, "format": 1.0, "accuracy": acc, "glue_iou": iou}


def _readable(parts: Mapping[str, str], sample: Mapping[str, Any]) -> bool:
    """What the format asks beyond the tags, as the authors' gqa_format and tracking_format do (grpo_tasks.py)."""
    if sample["task"] == "grounded_qa":
        return spans(parts["glue"]) is not None
    if sample["task"] == "tracking":
        found = boxes(parts["answer"], len(sample["boxes"]))
        return found is not None and None not in found
    return True


async def _recall(caption: str, sample: Mapping[str, Any], judge: "Judge | None") -> float:
    from rewards.judges.protocol import UNJUDGED, JudgeError

    if judge is None:
        raise ValueError(f"sample {sample['id']!r}: the recall of a caption needs a judge")
    recall = await event_recall(caption, sample, judge)
    if recall is UNJUDGED:
        raise JudgeError(f"sample {sample['id']!r}: a caption without a verdict has no reward; use on_failure=error")
    return recall
