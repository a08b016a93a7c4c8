"""The one place where a sample becomes a prompt, for SFT, RL and evaluation alike."""

from string import ascii_uppercase

from data_tools.sample import Sample

VIDEO = "<video>"  # the place-holder that LLaMA-Factory and verl both replace by the clip


def user_text(sample: Sample, instruction: str = "") -> str:
    """Text of the user turn: the clip, the question, its lettered options, then the recipe's instruction."""
    lines = [sample.question]
    lines += [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, sample.options)]
    if instruction:
        lines.append(instruction)
    return VIDEO + "\n".join(lines)


def messages(sample: Sample, system: str = "", instruction: str = "") -> list[dict[str, str]]:
    """Chat messages of a sample, without the response. No system message leaves the model's own default."""
    turns = [{"role": "system", "content": system}] if system else []
    return turns + [{"role": "user", "content": user_text(sample, instruction)}]
