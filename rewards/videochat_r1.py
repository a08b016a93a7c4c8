"""VideoChat-R1's rewards, one per kind of task (sections 3.2 and 3.3); joint training mixes the tasks in a batch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rewards.response import parse
from rewards.tasks import accuracy, event_recall, glue_iou, spans

if TYPE_CHECKING:
    from rewards.judge import Judge

SCHEMAS = {  # prompt -> schema of a response, and of one with its evidence
    "thinking": ("think_answer", "think_answer_glue"),
    "direct": ("answer", "answer_glue"),
}


async def reward(
    response: str,
    sample: Mapping[str, Any],
    *,
    judge: "Judge | None" = None,
    prompt: str = "thinking",
) -> dict[str, float]:
    """The sum of the task's rewards; all of them are 0 when the response is malformed.

    R_st  = R_format + R_IoU              temporal grounding, spatial grounding, tracking
    R_qa  = R_format + R_accuracy         options, quality, and every other task that a rule scores
    R_gqa = R_format + R_IoU + R_accuracy grounded QA: the answer, and the spans in <glue>
    R_cap = R_format + R_recall           captions, by the judge

    Args:
        response: the response alone.
        sample: a sample's fields.
        judge: is asked which events a caption tells; other tasks need none.
        prompt: what the model was asked for: "thinking" (<think> before <answer>) or "direct" (<answer> alone).

    Returns:
        `score`; `format` in {0, 1} (grounded QA: the glue must be spans); `accuracy` in [0, 1], the task's own (IoU,
        equality or recall); `glue_iou` in [0, 1], 0 for the tasks without glue.

    Raises:
        ValueError, KeyError: a malformed sample or setting, or a caption without a judge; never because of the
            response.
        JudgeError: by the judge; also of one that leaves captions unjudged, since they have no other reward.
    """
    if prompt not in SCHEMAS:
        raise ValueError(f"reward prompt {prompt!r}: choose {' or '.join(SCHEMAS)}")
    grounded = sample["task"] == "grounded_qa"
    parsed = parse(response, SCHEMAS[prompt][grounded])
    if not parsed.ok or (grounded and spans(parsed.glue) is None):
        return {"score": 0.0, "format": 0.0, "accuracy": 0.0, "glue_iou": 0.0}
    iou = glue_iou(parsed.glue, sample) if grounded else 0.0
    if sample["task"] == "caption":
        acc = await _recall(parsed.answer, sample, judge)
    else:
        acc = accuracy(parsed.answer, sample)
    return {"score": 1.0 + acc + iou, "format": 1.0, "accuracy": acc, "glue_iou": iou}


async def _recall(caption: str, sample: Mapping[str, Any], judge: "Judge | None") -> float:
    from rewards.judge import UNJUDGED, JudgeError

    if judge is None:
        raise ValueError(f"sample {sample['id']!r}: the recall of a caption needs a judge")
    recall = await event_recall(caption, sample, judge)
    if recall is UNJUDGED:
        raise JudgeError(f"sample {sample['id']!r}: a caption without a verdict has no reward; use on_failure=error")
    return recall
