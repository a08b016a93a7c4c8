"""VideoP2R's files: Video-R1's problems of each kind, with chains for SFT and without for RL, and the seven benchmarks.

videos/CLEVRER/train/<name>.mp4, videos/LLaVA-Video-178K/..., videos/PerceptionTest/...
Video-R1-COT-165k.json, Video-R1-260k.json, Video-R1-eval.json
benchmarks/: data_tools/rehearsal/benchmarks.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.files import write_json
from data_tools.rehearsal import benchmarks, words
from data_tools.rehearsal.clips import Camera, Kind, Shot
from rewards.motions import observation

BENCHMARKS = ("vsibench", "video_mmmu", "mmvu", "vcrbench", "mvbench", "tempcompass", "videomme")
FOLDERS = ("CLEVRER/train", "LLaVA-Video-178K/0_30_s", "PerceptionTest/videos")
BROKEN = "./NeXT-QA/NExTVideo/broken off.mp4"


def write(folder: Path, seed: int = 0) -> None:
    """Write all files under `folder`; the same seed gives the same bytes."""
    camera, rng = Camera(folder / "videos", seed), np.random.default_rng([seed, 2])
    camera.break_off(BROKEN)
    write_json(folder / "Video-R1-COT-165k.json", problems(camera, rng, "cot", 12, chains=True))
    write_json(folder / "Video-R1-260k.json", problems(camera, rng, "rl", 6, chains=False))
    write_json(folder / "Video-R1-eval.json", problems(camera, rng, "eval", 2, chains=False))
    benchmarks.write(folder / "benchmarks", BENCHMARKS, seed)


def problems(camera: Camera, rng: np.random.Generator, split: str, of_each: int, chains: bool) -> list[dict[str, Any]]:
    """`of_each` problems of each kind about clips of their own, and one about a picture for every third of them."""
    records: list[dict[str, Any]] = []
    for number in range(of_each * len(KINDS)):
        kind, (film, ask) = list(KINDS.items())[number % len(KINDS)]
        path = f"{FOLDERS[number % 3]}/{split}_{number:05d}{' Größe' if number == 1 else ''}.mp4"
        motion = words.MOVING[number % len(words.MOVING)]
        shot = camera.film(path, motion, film, seconds=4, fps=(2.0, 3.0)[number % 2], size=(56, (56, 44)[number % 2]))
        question, options, answer, seen = ask(rng, shot)
        chain, _, _ = words.chain(shot, answer, seen).partition("\n<answer>")
        records.append(_record(number, kind, question, options, answer, f"./{path}", chain if chains else ""))
        if number % 3 == 0:
            poor, still = number % 2 == 1, f"./Chart/{split}_{number:05d}.jpg"
            camera.photograph(still, poor, (90, 60))
            asked = "Is the picture <image> sharp or coarse?" if number % 4 else "Is the picture sharp or coarse?"
            options, letter = ["sharp", "coarse"], "AB"[poor]
            seen = ("Its edges are clear.", "It has large blocks.")[poor]
            chain = f"<observation>{seen}</observation>\n<think>It is {options[poor]}.</think>" if chains else ""
            picture = _record(number, "multiple choice", asked, options, letter, still, chain)
            records.append(picture | {"data_type": "image"})
    if split != "eval":
        records.append(records[0] | {"path": BROKEN})
    return [record | {"problem_id": number} for number, record in enumerate(records)]


def _record(
    number: int, kind: str, question: str, options: list[str], answer: str, path: str, process: str
) -> dict[str, Any]:
    return {
        "problem_id": number,
        "problem": question,
        "data_type": "video",
        "problem_type": kind,
        "options": words.lettered(options),
        "process": process,
        "solution": f"<answer>{answer}</answer>",
        "path": path,
        "data_source": path.split("/")[1],
    }


# Question, options, answer, and what a chain observes.
Asked = tuple[str, list[str], str, str]


def _motion(rng: np.random.Generator, shot: Shot) -> Asked:
    options, letter = words.options_with(rng, shot.motion, 4)
    return words.WHICH, options, letter, observation(shot.motion)


def _seconds(rng: np.random.Generator, shot: Shot) -> Asked:
    start, end = shot.span or (0, 0)
    return (
        "For how many seconds does the camera move?",
        [],
        f"{end - start:g}",
        f"The picture is still until {start:g} s, moves until {end:g} s.",
    )


def _width(rng: np.random.Generator, shot: Shot) -> Asked:
    left, _, right, _ = shot.boxes(2)[0]
    wide = f"{100 * (right - left):.0f}"
    return (
        "How wide is the red box in the first frame, in percent of the picture's width?",
        [],
        wide,
        f"The red box reaches from {100 * left:.0f} to {100 * right:.0f} percent.",
    )


def _sign(rng: np.random.Generator, shot: Shot) -> Asked:
    return "Which word is written on the sign?", [], shot.sign, f"A white sign says {shot.sign}."


def _told(rng: np.random.Generator, shot: Shot) -> Asked:
    return "How does the picture change?", [], observation(shot.motion), observation(shot.motion)


KINDS: dict[str, tuple[Kind, Callable[[np.random.Generator, Shot], Asked]]] = {
    "multiple choice": ("motion", _motion),
    "numerical": ("moment", _seconds),
    "regression": ("tracked", _width),
    "OCR": ("sign", _sign),
    "free-form": ("motion", _told),
}
