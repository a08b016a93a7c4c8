"""SFT chains: turned into the form that the reward reads, and checked against that form and the gold answer."""

import json
from typing import Literal

from data_tools.sample import FieldError, Sample
from data_tools.tokens import Tokenizer, check_text
from rewards.response import SCHEMAS, ParsedResponse, parse
from rewards.tasks import accuracy, glue_iou, gold_answer

Chains = Literal["ota", "think_answer", "think_answer_glue", "answer", "answer_glue", "gold"]
RIGHT = (
    0.5  # an answer that is right to a degree (IoU, ROUGE, ...) counts as right from this accuracy on, as in evaluation
)


def turned(sample: Sample, schema: str, chains: Chains | None) -> Sample:
    """The sample with its chain in another form.

    Args:
        schema: that the reward reads of its task.
        chains: None keeps the chain; "gold" writes one from the gold answer; a schema takes what the chain has of it,
            its observation as the start of its thought.

    Raises:
        FieldError: there is no chain, or none that can be turned.

    Example:
        >>> fields = {"id": "1", "video": "a.mp4", "source": "m", "split": "sft", "question": "When?"}
        >>> sample = Sample(**fields, task="temporal_grounding", spans=[[2, 4.5]], chain="<think>t</think>")
        >>> turned(sample, "answer", "gold").chain
        '<answer>2 to 4.5</answer>'
        >>> chain = "<observation>o</observation><think>t</think><answer>2</answer>"
        >>> sample = sample.model_copy(update={"chain": chain})
        >>> turned(sample, "think_answer", "think_answer").chain
        '<think>o t</think><answer>2</answer>'
    """
    if chains == "gold":
        parts = {"answer": gold_text(sample), "glue": json.dumps(sample.spans)}
    elif sample.chain is None:
        raise FieldError("chain", "SFT needs one")
    elif chains is None:
        return sample
    else:
        parts = _parts_of(sample.chain, schema)
    return sample.model_copy(update={"chain": written(parts, schema)})


def written(parts: dict[str, str], schema: str) -> str:
    """A response of these parts."""
    if missing := [tag for tag in SCHEMAS[schema] if tag not in parts]:
        raise FieldError("chain", f"has no <{missing[0]}> to be turned into the form {schema}")
    return "".join(f"<{tag}>{parts[tag]}</{tag}>" for tag in SCHEMAS[schema])


def _parts_of(chain: str, schema: str) -> dict[str, str]:
    forms = [parse(chain, name) for name in SCHEMAS]
    parts = next((dict(form.parts) for form in forms if form.ok), None)
    if parts is None:
        raise FieldError("chain", f"is in none of the forms {', '.join(SCHEMAS)}, so it cannot be turned into {schema}")
    if "observation" in parts and "observation" not in SCHEMAS[schema]:
        parts["think"] = f"{parts.pop('observation')} {parts['think']}"
    return parts


def gold_text(sample: Sample) -> str:
    """The gold answer in the form that instructions ask for.

    Raises:
        FieldError: a caption that is known by its events alone.
    """
    if sample.task == "caption" and not sample.answer:
        raise FieldError("answer", "a caption that is known by its events alone has no gold answer to make a chain of")
    if sample.task == "quality":  # its options stand in the question, without letters
        return sample.answer_text
    if sample.task == "temporal_grounding" and len(sample.spans) == 1:
        start, end = sample.spans[0]
        return f"{start:g} to {end:g}"
    if sample.task == "spatial_grounding" and len(sample.boxes) == 1:
        return json.dumps(sample.boxes[0])
    return gold_answer(sample.model_dump())


def check_form(sample: Sample, schema: str, tokenizer: Tokenizer | None = None) -> ParsedResponse:
    """The parsed chain.

    Raises:
        FieldError: it is missing, does not follow the schema, or holds what an engine would take for something else.
    """
    chain = sample.chain or ""
    if not chain:
        raise FieldError("chain", "SFT needs one")
    check_text("chain", chain, tokenizer)
    parsed = parse(chain, schema)
    if not parsed.ok:
        raise FieldError("chain", f"does not have the form {schema} that the reward reads: {parsed.error}")
    return parsed


def check_chain(sample: Sample, schema: str, tokenizer: Tokenizer | None = None) -> None:
    """Check a chain by the rules of the reward; the answer of a caption needs a judge, and is not graded.

    Raises:
        FieldError: see `check_form`, or its answer is wrong.
    """
    parsed = check_form(sample, schema, tokenizer)
    if sample.task == "caption":
        return
    fields = sample.model_dump()
    got = accuracy(parsed.parts["answer"], fields)
    if got < RIGHT:
        answer = parsed.parts["answer"][:80]
        raise FieldError("chain", f"its answer is wrong: {answer!r} is worth {got:.2g} as {sample.task}")
    if parsed.glue is not None and sample.task == "grounded_qa" and (iou := glue_iou(parsed.glue, fields)) < RIGHT:
        raise FieldError("chain", f"its <glue> is wrong: {parsed.glue[:80]!r} has an IoU of {iou:.2g}")
