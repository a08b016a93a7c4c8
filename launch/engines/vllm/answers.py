"""A question as requests to vLLM: greedy and sampled responses, and the probability of each option.

Requests of many questions are in flight at once, so that the engine never drains, and each record comes out as soon as
it is complete.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.sample import Sample
from launch.engines.vllm.clips import changed, changed_image, frames_of, items_of, with_media
from launch.engines.vllm.job import Questions
from launch.engines.vllm.option_scores import (
    ANSWER,
    Prompt,
    Requests,
    Steps,
    before_answer,
    candidates,
    first_token_probabilities,
    option_probabilities,
)
from launch.recipe import Recipe
from launch.recipe.evaluation import Media

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
DECODERS = 4  # threads that decode clips ahead of the engine
Question = tuple[Questions, Sample]
Answer = tuple[Path, dict[str, Any]]  # a record, and the file that it belongs to
Clips = list[Any]  # of a question: its clip as (frames, metadata), or its images


def answers(engine: "LLM", recipe: Recipe, questions: Sequence[Question], window: int) -> Iterator[Answer]:
    """One record per question, in the order in which they are complete; at most `window` questions are in flight.

    A clip or image that does not decode, or a prompt that is too long, gives a failed record. Questions that share one
    should follow one another: it is decoded once, and its tokens are in vLLM's prefix cache.
    """
    from transformers import AutoProcessor

    model = engine.model_config
    processor = AutoProcessor.from_pretrained(model.model, trust_remote_code=model.trust_remote_code)

    def decode(group: list[Question]) -> Clips:
        part, sample = group[0]
        turns = [{"role": "user", "content": items_of(sample, part.root, part.media)}]
        return frames_of(turns, processor.image_processor.patch_size)

    def all_steps() -> Iterator[tuple[Question, Steps]]:
        groups = (list(group) for _, group in groupby(questions, _shown_by))
        for group, clips in _ahead(decode, groups):
            for question in group:
                try:
                    prompt = prompt_of(question, clips.result(), recipe, processor)
                    yield question, respond(question[1], prompt, recipe, processor.tokenizer, question[0].ask)
                except (OSError, RuntimeError, ValueError) as error:  # what qwen_vl_utils and its decoders raise
                    reason = f"{question[0].root / question[1].shown} does not decode: {_first_line(error)}"
                    yield question, _failing(question[1], reason)

    yield from run(engine, all_steps(), window)


def _shown_by(question: Question) -> tuple[Path, str, Media]:
    part, sample = question
    return part.root, sample.shown, part.media


def prompt_of(question: Question, clips: Clips, recipe: Recipe, processor: Any) -> Prompt:
    """The prompt of training for a question, with the frames or images as its control changes them."""
    part, sample = question
    turns = with_media(part.form.messages(sample), items_of(sample, part.root, part.media))
    form = recipe.model.chat_template
    text = processor.apply_chat_template(turns, chat_template=form, add_generation_prompt=True, tokenize=False)
    if sample.images:
        shown: list[Any] = [changed_image(image, part.control) for image in clips]
    else:
        shown = [(changed(frames, part.control, f"{recipe.seed}/{sample.video}"), facts) for frames, facts in clips]
    kind = "image" if sample.images else "video"
    return {
        "prompt_token_ids": processor.tokenizer.encode(text, add_special_tokens=False),
        "multi_modal_data": {kind: shown},
        "multi_modal_uuids": {kind: [f"{part.control or 'unchanged'}: {part.root / name}" for name in sample.media]},
    }


def _failing(sample: Sample, reason: str) -> Steps:
    """Steps that need no engine."""
    return failed(sample.id, reason)
    yield


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]


def failed(name: str, reason: str) -> dict[str, Any]:
    """The record of a question that no engine could answer."""
    return {"id": name, "response": "", "finish_reason": "error", "error": reason[:500]}


# ---------------------------------------------------------------- one question


def respond(sample: Sample, prompt: Prompt, recipe: Recipe, tokenizer: Any, ask: str = "all") -> Steps:
    """Request the greedy response, `eval.samples` sampled ones, and the options' probabilities.

    `ask`: greedy, sampled: that alone; without a greedy response the first sampled one stands in its place.
    """
    settings = recipe.eval
    greedy, *sampled = sampling(recipe, sample)
    asked = {"all": [greedy, *sampled], "greedy": [greedy], "sampled": sampled}[ask]
    outputs = yield [(prompt, params) for params in asked]
    first, votes = outputs[0], outputs if ask == "sampled" else outputs[1:]
    response = first.outputs[0]
    record = {"id": sample.id, "response": response.text, "finish_reason": response.finish_reason}
    if votes:
        record["samples"] = [vote.outputs[0].text for vote in votes]
    if settings.option_scores and sample.options and ask == "all":
        probabilities = yield from _option_scores(sample, prompt, response, settings.option_scores, tokenizer)
        if probabilities is not None:
            record["option_probs"] = dict(zip(sample.options, probabilities))
            if sample.task == "binary":
                record["p_yes"] = probabilities[[option.casefold() for option in sample.options].index("yes")]
    return record


def _option_scores(
    sample: Sample, prompt: Prompt, response: Any, mode: str, tokenizer: Any
) -> Generator[Requests, list["RequestOutput"], list[float] | None]:
    """P(option) by `eval.option_scores`; None where the response, or the question, has no place for it."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    if mode == "first_token" and sample.task != "binary":
        return None  # options may begin alike
    if mode == "first_token":
        return (yield from first_token_probabilities(prompt, sample.options, encode))
    start = (0, ANSWER) if mode == "direct" else before_answer(response, tokenizer)
    if start is None:
        return None
    kept, lead = start
    ids = prompt["prompt_token_ids"] + list(response.token_ids[:kept])
    paths = candidates(sample.options, lead, encode)
    return (yield from option_probabilities(prompt | {"prompt_token_ids": ids}, paths, len(sample.options)))


def sampling(recipe: Recipe, sample: Sample) -> list["SamplingParams"]:
    """Of the greedy response and of each vote.

    A vote's seed is made of the recipe's, the sample's id and the vote's number: the response does not depend on the
    order of the questions, the engine, or an interruption.
    """
    from vllm import SamplingParams

    settings = recipe.eval

    def seed(vote: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{recipe.seed}/{sample.id}/{vote}".encode()).digest()[:4], "big")

    return [SamplingParams(temperature=0.0, max_tokens=settings.max_tokens)] + [
        SamplingParams(
            temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens, seed=seed(vote)
        )
        for vote in range(settings.samples)
    ]


# ---------------------------------------------------------------- many questions
# vLLM's asynchronous engine (AsyncLLM) would take the place of this loop, and is no faster: side by side on two cores
# it took 1.01 times as long for greedy answers about 96 clips, and 0.96 times with options and votes (medians of four).
# But its engine core is a process of its own. Without a GPU that imports vLLM anew, 18 s for each model instead of 4,
# and without our patches; and the batches that it makes depend on time: records came in another order in each run.


@dataclass
class _InFlight:
    """A question, and the outputs of its last requests as far as they are there."""

    question: Question
    steps: Steps
    outputs: dict[int, "RequestOutput"] = field(default_factory=dict)
    requests: int = 0


class _Requests:
    """The requests that vLLM works on, each for a question in flight."""

    def __init__(self, engine: "LLM") -> None:
        self._core, self._limit = engine.llm_engine, engine.model_config.max_model_len
        self._numbers = count()
        self._owners: dict[str, tuple[_InFlight, int]] = {}  # by request; its index among the question's requests

    def resume(self, asked: _InFlight) -> Answer | None:
        """Send the question's next requests, or give its record where it has none."""
        from vllm.sampling_params import RequestOutputKind

        part, sample = asked.question
        try:
            outputs = [asked.outputs[index] for index in range(asked.requests)]
            requests: Requests = asked.steps.send(outputs) if outputs else next(asked.steps)
        except StopIteration as end:
            return part.out, end.value
        rendered = [(self._core.renderer.render_cmpl([prompt])[0], params) for prompt, params in requests]
        length = max(len(prompt["prompt_token_ids"]) for prompt, _ in rendered)
        if length >= self._limit:  # vLLM would refuse it, by an error like any other
            return part.out, failed(
                sample.id, f"its prompt of {length} tokens leaves no room for an answer in {self._limit}"
            )
        asked.outputs, asked.requests = {}, len(rendered)
        for index, (prompt, params) in enumerate(rendered):
            name, params.output_kind = str(next(self._numbers)), RequestOutputKind.FINAL_ONLY
            self._core.add_request(name, prompt, params)
            self._owners[name] = asked, index
        return None

    def step(self) -> Iterator[_InFlight]:
        """One step of the engine; the questions whose requests are all finished."""
        for output in self._core.step():
            asked, index = self._owners.pop(output.request_id)
            asked.outputs[index] = output
            if len(asked.outputs) == asked.requests:
                yield asked


def run(engine: "LLM", questions: Iterable[tuple[Question, Steps]], window: int) -> Iterator[Answer]:
    """Drive the questions' steps through the engine; give their records."""
    requests, waiting, in_flight = _Requests(engine), iter(questions), 0
    while True:
        while in_flight < window and (question := next(waiting, None)):
            if answer := requests.resume(_InFlight(*question)):
                yield answer
            else:
                in_flight += 1
        if not in_flight:
            return
        for asked in requests.step():
            if answer := requests.resume(asked):
                in_flight -= 1
                yield answer


def _ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Future[Any]]]:
    """Each item with the future of `work(item)`; the next few are worked on in threads."""
    pending: deque[tuple[Any, Future[Any]]] = deque()
    with ThreadPoolExecutor(DECODERS) as pool:
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) > DECODERS:
                yield pending.popleft()
        yield from pending
