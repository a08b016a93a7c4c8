"""The probability of each option behind a response's own reasoning."""

import math
from collections.abc import Callable, Generator, Sequence
from os.path import commonprefix
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from rewards.reading import chosen_option

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
ANSWER, END = "<answer>", "</answer>"
Prompt = dict[str, Any]  # prompt_token_ids, multi_modal_data, multi_modal_uuids
Requests = list[tuple[Prompt, "SamplingParams"]]
Steps = Generator[Requests, list["RequestOutput"], dict[str, Any]]  # a question's requests, turn by turn; its record


def before_answer(response: Any, tokenizer: Any) -> tuple[int, str] | None:
    """How many of the response's tokens lie wholly before its <answer>, and the text from there to the tag's end.

    None where the response holds no <answer>, or several.
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
            if chosen_option(form, options) == index:  # not where an option's text is the letter of another
                forms.append((index, tuple(encode(lead + form + END))))
    return forms


def first_token_probabilities(
    prompt: Prompt, options: Sequence[str], encode: Callable[[str], list[int]]
) -> Generator[Requests, list["RequestOutput"], list[float]]:
    """P(the response's first token begins the option), each by itself: they do not add up to 1.

    With the options Yes and No this is CameraBench's VQAScore (linzhiqiu/t2v_metrics).
    """
    from vllm import SamplingParams

    tokens = [encode(option)[0] for option in options]
    params = SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=sorted(set(tokens)), detokenize=False)
    (answer,) = yield [(prompt, params)]
    log_probs = answer.outputs[0].logprobs[0]
    return [math.exp(log_probs[token].logprob) for token in tokens]


def option_probabilities(
    prompt: Prompt, paths: Sequence[tuple[int, tuple[int, ...]]], options: int
) -> Generator[Requests, list["RequestOutput"], list[float]]:
    """P(option) after `prompt`, normalised over the options: the mass of all token paths that name it.

    The paths form a tree. One request of one token at each fork asks for the log-probabilities of the branches, level
    by level; a branch that belongs to a single option is followed no further. Options that share their first tokens are
    thus compared where they differ, and a fork costs one token, since all before it is in the prefix cache.
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
        requests = [
            (
                prompt | {"prompt_token_ids": [*prompt["prompt_token_ids"], *group[0][1][:depth]]},
                SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=branches, detokenize=False),
            )
            for (depth, _, group), branches in zip(forks, tokens)
        ]
        level = []
        for (depth, log_prob, group), branches, answer in zip(forks, tokens, (yield requests) if requests else ()):
            log_probs = answer.outputs[0].logprobs[0]
            for token in branches:
                branch = [(option, path) for option, path in group if path[depth] == token]
                level.append((depth + 1, log_prob + log_probs[token].logprob, branch))
    mass = sum(total)
    return [share / mass if mass else 1 / options for share in total]
