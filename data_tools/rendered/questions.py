"""Questions about rendered clips, in CameraBench's words, and the reasoning chains that answer them.

Neither the question nor a letter gives the answer away: each motion is asked about as often with the answer Yes as with
No, a set share of the No questions asks for the motion confusable with the clip's, a choice offers all motions, each of
them true equally often, and the order of options is shuffled. Chains answer by the option's text, which every scorer
accepts as it accepts a letter: finding a letter in a shuffled list is a skill of pretrained models, and the tiny model
would spend its whole training on it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from data_tools.prompt import user_text
from data_tools.sample import Sample
from rewards.motions import NAMES, PRIMITIVES, confusable, observation
from rewards.response import SCHEMAS

# The wording of CameraBench (arXiv 2504.15376).
BINARY_QUESTIONS: dict[str, str] = {
    "static": "Is the camera completely still without any motion or shaking?",
    "dolly_in": "Does the camera move forward (not zooming in) with respect to the initial frame?",
    "dolly_out": "Does the camera move backward (not zooming out) with respect to the initial frame?",
    "pedestal_up": "Does the camera move upward (not tilting up) with respect to the initial frame?",
    "pedestal_down": "Does the camera move downward (not tilting down) with respect to the initial frame?",
    "truck_left": "Does the camera move leftward in the scene?",
    "truck_right": "Does the camera move rightward in the scene?",
    "zoom_in": "Does the camera zoom in?",
    "zoom_out": "Does the camera zoom out?",
    "pan_left": "Does the camera pan to the left?",
    "pan_right": "Does the camera pan to the right?",
    "tilt_up": "Does the camera tilt upward?",
    "tilt_down": "Does the camera tilt downward?",
    "roll_cw": "Does the camera roll clockwise?",
    "roll_ccw": "Does the camera roll counterclockwise?",
}
CHOICE_QUESTION = "Which camera movement does the clip show?"
GROUNDING_QUESTION = "When does the camera {name}? Give its start and end in seconds."
TRACKING_QUESTION = (
    "A red box is at {box} (left, top, right, bottom in percent of the picture). Where is it after {seconds} seconds?"
)
COARSE = 5  # percent; the grid on which the tiny model learns box edges
Split = Literal["sft", "rl", "val", "test"]


@dataclass(frozen=True)
class RenderedClip:
    """A rendered clip, and what its track shows.

    Attributes:
        video: path under the media root.
        motion: of the camera.
        scene: that it was filmed in.
        duration: in seconds.
        span: seconds between which the camera moves; None where it never does.
        boxes: around the tracked object at each full second, in percent of the picture; empty where there is none.
    """

    video: str
    motion: str
    scene: str
    duration: float | None = None
    span: tuple[float, float] | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()


def binary_samples(
    clips: Sequence[RenderedClip], count: int, split: Split, rng: np.random.Generator, confusable_share: float = 0.5
) -> Iterator[Sample]:
    """`count` yes/no questions, half of each, dealt evenly over the clips.

    Args:
        confusable_share: share of the No questions that ask for the motion confusable with the clip's; the others ask
            for any other motion.

    Raises:
        ValueError: `count` is odd, or there is no clip.
    """
    if count % 2 or not clips:
        raise ValueError(f"binary questions: need an even number and at least one clip, got {count} and {len(clips)}")
    shown = [clips[number % len(clips)] for number in range(count)]
    yes, no = shown[: count // 2], shown[count // 2 :]
    asked = [clip.motion for clip in yes]
    asked += _wrong_motions([clip.motion for clip in no], Counter(asked), rng, confusable_share)
    for number, (clip, motion) in enumerate(zip(shown, asked)):
        yield Sample(
            id=f"{split}-binary-{number:05d}",
            video=clip.video,
            question=BINARY_QUESTIONS[motion],
            **_shuffled(["No", "Yes"], "Yes" if motion == clip.motion else "No", rng),
            task="binary",
            source="rendered",
            split=split,
            extras={
                "motion": clip.motion,
                "asked": motion,
                "scene": clip.scene,
                "confusable": motion == confusable(clip.motion),
            },
        )


def _wrong_motions(
    shown: list[str], asked_yes: Counter[str], rng: np.random.Generator, confusable_share: float
) -> list[str]:
    """A wrong motion to ask about for each shown one; each motion as often as in `asked_yes`, where possible."""
    asked: list[str] = [""] * len(shown)
    moving = [number for number, motion in enumerate(shown) if confusable(motion)]
    for number in rng.permutation(moving)[: round(confusable_share * len(shown))]:
        asked[number] = confusable(shown[number]) or ""
    left = asked_yes - Counter(asked)
    for number in rng.permutation([number for number, motion in enumerate(asked) if not motion]):
        hasty = observation(shown[number], True)  # a motion that only parallax distinguishes is left out
        wrong = [m for m in PRIMITIVES if observation(m, True) != hasty]
        weights = np.array([left[m] for m in wrong], float) + 1e-9
        asked[number] = str(rng.choice(wrong, p=weights / weights.sum()))
        left -= Counter([asked[number]])
    return asked


def choice_samples(
    clips: Sequence[RenderedClip], count: int, split: Split, rng: np.random.Generator
) -> Iterator[Sample]:
    """`count` questions about which motion a clip shows, all 15 offered; dealt evenly over the clips.

    Raises:
        ValueError: there is no clip.
    """
    if not clips:
        raise ValueError("choice questions: need at least one clip")
    for number in range(count):
        clip = clips[number % len(clips)]
        yield Sample(
            id=f"{split}-choice-{number:05d}",
            video=clip.video,
            question=CHOICE_QUESTION,
            **_shuffled([NAMES[motion] for motion in PRIMITIVES], NAMES[clip.motion], rng),
            task="choice",
            source="rendered",
            split=split,
            extras={"motion": clip.motion, "scene": clip.scene, "confusable": confusable(clip.motion) is not None},
        )


def grounding_samples(clips: Sequence[RenderedClip], split: Split) -> Iterator[Sample]:
    """One question per clip, in which the camera is still, moves, and is still again: when does it move?"""
    for number, clip in enumerate(clips):
        assert clip.span is not None, f"{clip.video}: its camera never moves"
        yield Sample(
            id=f"{split}-grounding-{number:05d}",
            video=clip.video,
            question=GROUNDING_QUESTION.format(name=NAMES[clip.motion]),
            task="temporal_grounding",
            spans=[list(clip.span)],
            duration=clip.duration,
            source="rendered",
            split=split,
            extras={"motion": clip.motion, "scene": clip.scene},
        )


def tracking_samples(clips: Sequence[RenderedClip], split: Split) -> Iterator[Sample]:
    """One question per clip: where is the object, given its first box, at each later second?"""
    for number, clip in enumerate(clips):
        first, *later = clip.boxes
        yield Sample(
            id=f"{split}-tracking-{number:05d}",
            video=clip.video,
            question=TRACKING_QUESTION.format(box=_box(first), seconds=_enumerated(range(1, len(clip.boxes)))),
            task="tracking",
            boxes=[list(map(float, box)) for box in later],
            duration=clip.duration,
            source="rendered",
            split=split,
            extras={"motion": clip.motion, "scene": clip.scene, "first_box": list(first)},
        )


def _box(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{edge:.0f}' for edge in box)}]"


def _enumerated(numbers: Sequence[int]) -> str:
    *start, last = map(str, numbers)
    return f"{', '.join(start)} and {last}" if start else last


def _shuffled(options: list[str], right: str, rng: np.random.Generator) -> dict[str, Any]:
    """A sample's options in random order, and the letter of the right one."""
    options = rng.permutation(options).tolist()
    return {"options": options, "answer": ascii_uppercase[options.index(right)]}


def chain_for(sample: Sample, terse: bool = False, schema: str = "ota") -> str:
    """The correct response to a rendered clip: what is visible, what follows from it, the answer.

    A terse chain observes how the picture moves, but not its parallax, and concludes from that alone. Where only
    parallax decides, and for a choice among all motions, the chain is full. A schema without an observation has it at
    the start of its thoughts.
    """
    seen, think, answer = _CHAINS[sample.task](sample, terse)
    parts = {"observation": seen, "think": think, "answer": answer}
    if "observation" not in SCHEMAS[schema]:
        parts["think"] = f"{seen} {think}".strip()
    return "".join(f"<{tag}>{parts[tag]}</{tag}>" for tag in SCHEMAS[schema])


def _option_chain(sample: Sample, terse: bool) -> tuple[str, str, str]:
    seen, asked = sample.extras["motion"], sample.extras.get("asked")
    terse = terse and asked is not None and (seen == asked or observation(seen, True) != observation(asked, True))
    think = f"Seen {NAMES[seen]}."
    if asked is not None:
        shown = observation(seen, True).removeprefix("The picture ").removesuffix(".") if terse else NAMES[seen]
        think = f"Asked {NAMES[asked]}, seen {shown}: {sample.answer_text}."
    return observation(seen, terse), think, sample.answer_text


def _grounding_chain(sample: Sample, terse: bool) -> tuple[str, str, str]:
    (start, end), seconds = sample.spans[0], range(round(sample.duration or 0))
    states = ", ".join(f"{second} {'moves' if start <= second < end else 'still'}" for second in seconds)
    return f"By second: {states}.", "" if terse else f"It moves from {start:g} to {end:g}.", f"{start:g} to {end:g}"


def _tracking_chain(sample: Sample, terse: bool) -> tuple[str, str, str]:
    boxes = [[COARSE * round(edge / COARSE) for edge in box] for box in sample.boxes]
    start, end = sample.extras["first_box"], sample.boxes[-1]
    across, down = start[0] + start[2] - end[0] - end[2], start[1] + start[3] - end[1] - end[3]
    ways = [("left", across), ("right", -across), ("up", down), ("down", -down)]
    goes = " and ".join(way for way, twice in ways if twice / 2 >= COARSE)
    return f"The red box {f'goes {goes}' if goes else 'stays'}.", "", f"[{', '.join(map(_box, boxes))}]"


_CHAINS: dict[str, Callable[[Sample, bool], tuple[str, str, str]]] = {
    "binary": _option_chain,
    "choice": _option_chain,
    "temporal_grounding": _grounding_chain,
    "tracking": _tracking_chain,
}


def demo_texts(schema: str = "ota", spatiotemporal: bool = False) -> list[str]:
    """Every wording that questions, options and chains can take, for a tokenizer to learn from.

    Args:
        spatiotemporal: with grounding and tracking questions.
    """
    texts = []
    for number, seen in enumerate(PRIMITIVES):
        clip = [RenderedClip("clip.mp4", seen, "scene")]
        rng = np.random.default_rng(number)
        samples = [*binary_samples(clip, 30, "sft", rng), *choice_samples(clip, 1, "sft", rng)]
        if spatiotemporal:
            samples += _spatiotemporal_samples(seen, rng)
        texts += [
            user_text(sample) + "\n" + chain_for(sample, terse, schema) for sample in samples for terse in (False, True)
        ]
    return texts


def _spatiotemporal_samples(motion: str, rng: np.random.Generator, count: int = 12) -> Iterator[Sample]:
    """Grounding and tracking questions about clips that need not exist."""
    for _ in range(count):
        start, end = sorted(rng.choice(5, 2, replace=False).tolist())
        boxes = [np.sort(rng.choice(101, (2, 2), replace=False), axis=0).ravel().tolist() for _ in range(4)]
        clip = RenderedClip("clip.mp4", motion, "scene", 4.0, (start, end), tuple((a, b, c, d) for a, b, c, d in boxes))
        yield from [*grounding_samples([clip], "sft"), *tracking_samples([clip], "sft")]
