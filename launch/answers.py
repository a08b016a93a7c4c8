"""A question as requests to vLLM: greedy and sampled responses, and the probability of each option.

Requests of many questions are in flight at once, so that the engine never drains, and each record comes out as soon as
it is complete.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, groupby
from os.path import commonprefix
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from data_tools.controls import Control, shuffled
from data_tools.prompt import messages
from data_tools.sample import Sample
from rewards.tasks import chosen_option

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import LLM, RequestOutput, SamplingParams

ANSWER, END = "<answer>", "</answer>"
ROOM = 64  # tokens for the options' names behind the longest response
DECODERS = 4  # threads that decode clips ahead of the engine
Question = tuple[Control | None, Sample]
Prompt = dict[str, Any]  # prompt_token_ids, multi_modal_data, multi_modal_uuids
Requests = list[tuple[Prompt, "SamplingParams"]]
Steps = Generator[Requests, list["RequestOutput"], Any]  # asks in turns


def build_engine(recipe: dict[str, Any], model: str) -> "LLM":
    """vLLM with the recipe's budgets, for weights in safetensors only."""
    from vllm import LLM

    cpu = recipe["cluster"]["device"] == "cpu"
    rl, rollout = recipe["rl"], recipe["rl"]["rollout"]
    return LLM(
        model=model,
        trust_remote_code=recipe["model"]["trust_remote_code"],
        load_format="safetensors",
        dtype=recipe["model"]["dtype"],
        seed=recipe["seed"],
        max_model_len=rl["max_prompt_length"] + recipe["eval"]["max_tokens"] + ROOM,
        max_num_seqs=rollout["max_num_seqs"],
        max_num_batched_tokens=rollout["max_num_batched_tokens"],
        gpu_memory_utilization=rollout["gpu_memory_utilization"] if cpu else 0.9,
        tensor_parallel_size=rollout["tensor_parallel_size"],
        enforce_eager=rollout["enforce_eager"],
        # A chunk that ends inside a prompt rewinds a seeded request's generator, which a CPU's cannot (launch/verl.py).
        enable_chunked_prefill=not cpu,
        limit_mm_per_prompt={"image": 0, "video": 1},
        skip_mm_profiling=cpu,
        disable_log_stats=True,
    )


def answers(
    engine: "LLM", recipe: dict[str, Any], root: Path, questions: Sequence[Question], window: int
) -> Iterator[tuple[Control | None, dict[str, Any]]]:
    """One record per question, in the order in which they are complete; at most `window` questions are in flight.

    One whose clip does not decode, or whose prompt is too long, gives a failed record. Questions that share a clip
    should follow one another: it is decoded once, and its tokens stand in vLLM's prefix cache.
    """
    from transformers import AutoProcessor

    model = engine.model_config
    processor = AutoProcessor.from_pretrained(model.model, trust_remote_code=model.trust_remote_code)
    texts, media = (recipe["data"]["system"], recipe["data"]["instruction"]), recipe["media"]

    def decode(clip: tuple[str, list[Question]]) -> list[tuple["Tensor", dict[str, Any]]]:
        content = [{"type": "video", "video": str(root / clip[0]), **media}]
        return frames_of([{"role": "user", "content": content}], processor.image_processor.patch_size)

    def steps(question: Question, videos: list[tuple["Tensor", dict[str, Any]]]) -> Steps:
        control, sample = question
        turns = with_clip(messages(sample, *texts), sample.video, media)
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        shown = [(changed(frames, control, f"{recipe['seed']}/{sample.video}"), facts) for frames, facts in videos]
        prompt = {
            "prompt_token_ids": processor.tokenizer.encode(text, add_special_tokens=False),
            "multi_modal_data": {"video": shown},
            "multi_modal_uuids": {"video": [f"{control or 'unchanged'}: {sample.video}"]},
        }
        record = yield from respond(sample, prompt, recipe["eval"], recipe["seed"], processor.tokenizer)
        return control, record

    def all_steps() -> Iterator[tuple[Question, Steps]]:
        clips = ((video, list(group)) for video, group in groupby(questions, lambda question: question[1].video))
        for (video, group), decoded in _ahead(decode, clips):
            for question in group:
                try:
                    yield question, steps(question, decoded.result())
                except (OSError, RuntimeError, ValueError) as error:  # what qwen_vl_utils and its decoders raise
                    yield question, _failing(question, f"{video} does not decode: {_first_line(error)}")

    yield from run(engine, all_steps(), window)


def _failing(question: Question, reason: str) -> Steps:
    """Steps that need no engine."""
    return question[0], failed(question[1].id, reason)
    yield


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]


def failed(name: str, reason: str) -> dict[str, Any]:
    """The record of a question that no engine could answer."""
    return {"id": name, "response": "", "finish_reason": "error", "error": reason[:500]}


# ---------------------------------------------------------------- one question


def respond(sample: Sample, prompt: Prompt, settings: dict[str, Any], seed: int, tokenizer: Any) -> Steps:
    """Ask for the greedy response, `samples` sampled ones, and the options' probabilities; settings: recipe's `eval`.

    Sampled response i is drawn with a seed of its own, made of the recipe's, the sample's id and i: it is the same in
    whatever order, on whichever engine and after whichever interruption it is made.
    """
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0.0, max_tokens=settings["max_tokens"])
    sampled = [
        SamplingParams(
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            max_tokens=settings["max_tokens"],
            seed=int.from_bytes(hashlib.sha256(f"{seed}/{sample.id}/{vote}".encode()).digest()[:4], "big"),
        )
        for vote in range(settings["samples"])
    ]
    first, *votes = yield [(prompt, params) for params in (greedy, *sampled)]
    response = first.outputs[0]
    record = {"id": sample.id, "response": response.text, "finish_reason": response.finish_reason}
    if votes:
        record["samples"] = [vote.outputs[0].text for vote in votes]
    if settings["option_scores"] and sample.options:
        place = (0, ANSWER) if settings["option_scores"] == "direct" else _before_answer(response, tokenizer)
        if place is not None:
            kept, lead = place
            ids = prompt["prompt_token_ids"] + list(response.token_ids[:kept])
            paths = candidates(sample.options, lead, lambda text: tokenizer.encode(text, add_special_tokens=False))
            probabilities = yield from option_probabilities(
                prompt | {"prompt_token_ids": ids}, paths, len(sample.options)
            )
            record["option_probs"] = dict(zip(sample.options, probabilities))
            if sample.task == "binary":
                record["p_yes"] = probabilities[[option.casefold() for option in sample.options].index("yes")]
    return record


def _before_answer(response: Any, tokenizer: Any) -> tuple[int, str] | None:
    """How many of the response's tokens stand wholly before its <answer>, and the text from there to the tag's end.

    None where the response holds no <answer>, or several: there is no place that is the answer's.
    """
    if response.text.count(ANSWER) != 1:
        return None
    start = response.text.index(ANSWER)
    for kept in range(len(response.token_ids), -1, -1):
        text = tokenizer.decode(response.token_ids[:kept], skip_special_tokens=True)
        if len(text) <= start and response.text.startswith(text):
            return kept, response.text[len(text) : start + len(ANSWER)]
    return None


def candidates(
    options: Sequence[str], lead: str, encode: Callable[[str], list[int]]
) -> list[tuple[int, tuple[int, ...]]]:
    """(index of option, token ids) of all the ways to name an option that the scorer reads: B, Yes, B. Yes.

    Each is tokenised together with what comes before and after it, since tokens may cross the border.
    """
    forms = []
    for index, (letter, option) in enumerate(zip(ascii_uppercase, options)):
        for form in dict.fromkeys((letter, option, f"{letter}. {option}")):
            if chosen_option(form, options) == index:  # not where another option's text is this letter
                forms.append((index, tuple(encode(lead + form + END))))
    return forms


def option_probabilities(
    prompt: Prompt, paths: Sequence[tuple[int, tuple[int, ...]]], options: int
) -> Generator[Requests, list["RequestOutput"], list[float]]:
    """P(option) after `prompt`, normalised over the options: the mass of all token paths that name it.

    The paths form a tree. One request of one token at each fork asks for the log-probabilities of the branches, level
    by level; a branch that belongs to one option alone is followed no further. So options that share their first tokens
    are told apart where they part, and the forks cost a token each, since all before stands in the prefix cache.
    """
    from vllm import SamplingParams

    root = commonprefix([path for _, path in paths])  # every option's: it cancels
    total = [0.0] * options
    level = [(len(root), 0.0, list(paths))]
    while level:
        forks = []
        for depth, log_prob, group in level:
            ended = [option for option, path in group if len(path) == depth]
            if ended or len({option for option, _ in group}) == 1:
                total[(ended or group[0])[0]] += math.exp(log_prob)
            else:
                forks.append((depth, log_prob, group))
        tokens = [sorted({path[depth] for _, path in group}) for depth, _, group in forks]
        asked = [
            (
                prompt | {"prompt_token_ids": [*prompt["prompt_token_ids"], *group[0][1][:depth]]},
                SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=branches, detokenize=False),
            )
            for (depth, _, group), branches in zip(forks, tokens)
        ]
        level = []
        for (depth, log_prob, group), branches, answer in zip(forks, tokens, (yield asked) if asked else ()):
            log_probs = answer.outputs[0].logprobs[0]
            for token in branches:
                branch = [(option, path) for option, path in group if path[depth] == token]
                level.append((depth + 1, log_prob + log_probs[token].logprob, branch))
    mass = sum(total)
    return [share / mass if mass else 1 / options for share in total]


# ---------------------------------------------------------------- many questions


@dataclass
class _Flight:
    """A question that waits for the outputs of its last requests."""

    question: Question
    steps: Steps
    outputs: list["RequestOutput | None"] = field(default_factory=list)


def run(
    engine: "LLM", questions: Iterable[tuple[Question, Steps]], window: int
) -> Iterator[tuple[Control | None, dict[str, Any]]]:
    """Drive the questions' steps through the engine; give what they end with."""
    core, numbers, limit = engine.llm_engine, count(), engine.model_config.max_model_len
    questions, asked = iter(questions), {}  # request -> its flight, and its place among the flight's requests
    flying, more = 0, True

    def advance(flight: _Flight) -> tuple[Control | None, dict[str, Any]] | None:
        """Send the next requests; give the end where there are none."""
        try:
            requests = flight.steps.send(flight.outputs or None)
        except StopIteration as end:
            return end.value
        flight.outputs, sent = [None] * len(requests), []
        for place, (prompt, params) in enumerate(requests):
            name, rendered = str(next(numbers)), engine._preprocess_cmpl_one(prompt)  # as LLM.generate does
            length = len(rendered["prompt_token_ids"])
            if length >= limit:  # vLLM would refuse it, by an error like any other
                core.abort_request(sent)
                for other in sent:
                    del asked[other]
                reason = f"its prompt of {length} tokens leaves no room for an answer in {limit}"
                return flight.question[0], failed(flight.question[1].id, reason)
            core.add_request(name, rendered, params)
            sent.append(name)
            asked[name] = flight, place
        return None

    while more or asked:
        while more and flying < window:
            question = next(questions, None)
            if question is None:
                more = False
            elif end := advance(_Flight(*question)):
                yield end
            else:
                flying += 1
        for output in core.step() if asked else ():
            if not output.finished or output.request_id not in asked:
                continue
            flight, place = asked.pop(output.request_id)
            flight.outputs[place] = output
            if None not in flight.outputs and (end := advance(flight)):
                flying -= 1
                yield end


def _ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Future]]:
    """Each item with the future of `work(item)`, a few of which are done ahead in threads."""
    waiting: deque[tuple[Any, Future]] = deque()
    with ThreadPoolExecutor(DECODERS) as pool:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > DECODERS:
                yield waiting.popleft()
        yield from waiting


# ---------------------------------------------------------------- clips


def with_clip(turns: list[dict[str, str]], video: str, media: dict[str, Any]) -> list[dict[str, Any]]:
    """The prompt's place-holder as a content part, as verl's data set makes it (verl 0.9.1, rl_dataset.py:330)."""
    parts = []
    for turn in turns:
        before, mark, after = turn["content"].partition("<video>")
        content: list[dict[str, Any]] | str = turn["content"]
        if mark:
            content = [{"type": "video", "video": video, **media}, {"type": "text", "text": after}]
            content = [{"type": "text", "text": before}, *content] if before else content
        parts.append({"role": turn["role"], "content": content})
    return parts


def frames_of(turns: list[dict[str, Any]], patch_size: int = 14) -> list[Any]:
    """The clips of a prompt as (frames [T, 3, H, W], metadata), by the loader that verl's rollouts use.

    Args:
        patch_size: of the model's image processor, in pixels: 14 in Qwen2.5-VL, 16 in Qwen3-VL. The loader rounds sizes
            to twice as much.
    """
    from qwen_vl_utils import process_vision_info

    _, videos = process_vision_info(turns, image_patch_size=patch_size, return_video_metadata=True)
    return videos


def changed(frames: "Tensor", control: Control | None, name: str) -> "Tensor":
    """Frames [T, 3, H, W] as a control shows them; `name` decides how they are shuffled."""
    if control == "blank":
        return frames.new_zeros(frames.shape)
    if control == "shuffled_frames":
        return frames[shuffled(len(frames), name)]
    if control == "mirrored":
        return frames.flip(-1)
    if control == "reversed":
        return frames.flip(0)
    return frames
