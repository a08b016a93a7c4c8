"""CamReasoner's files: chains, RL questions, CameraBench's test set in its official form, ShotBench and RefineShot.

videos/video/<name>.mp4
LLaMA-Factory/data/camerabench_sft.json, EasyR1/camerabench_rl.json
benchmarks/camerabench/{binary_classification/<Primitive>.jsonl,vqa_and_retrieval/<skill>/<task>.jsonl,videos/}
benchmarks/shotbench/{test.tsv,videos/{video,image}/}, benchmarks/refineshot/test.tsv
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.files import write_text
from data_tools.rehearsal import words
from data_tools.rehearsal.clips import Camera, Shot
from data_tools.rehearsal.words import write_lines
from data_tools.sources.camerabench import PRIMITIVES as PUBLISHED
from rewards.motions import PRIMITIVES

SKILLS = {
    "motion_direction": 12,
    "confusable_motion": 10,
}  # of the nine, those that rendered clips can show; task files
SIZES = ((56, 56), (56, 42), (38, 56), (56, 32))
RATES = (2.0, 3.0, 4.0, 2.5)
BROKEN = "9rX0_broken.2.mp4"


def write(folder: Path, seed: int = 0) -> None:
    """Write all files under `folder`; the same seed gives the same bytes."""
    rng, benchmarks = np.random.default_rng([seed, 1]), folder / "benchmarks"
    camera = Camera(folder / "videos/video", seed)
    train = film(camera, _names("train", 45))
    camera.break_off(BROKEN)
    Camera(folder / "videos", seed).photograph("image/still.jpg")
    words.write_array(folder / "LLaMA-Factory/data/camerabench_sft.json", sft_records(train, rng))
    words.write_array(folder / "EasyR1/camerabench_rl.json", rl_records(train, rng))
    test = film(Camera(benchmarks / "camerabench/videos", seed), _names("test", 30))
    _binary(benchmarks / "camerabench/binary_classification", test, rng)
    _vqa(benchmarks / "camerabench/vqa_and_retrieval", test, rng)
    shots = film(Camera(benchmarks / "shotbench/videos/video", seed), _names("film", 8))
    stills = photograph(Camera(benchmarks / "shotbench/videos/image", seed))
    _table(benchmarks / "shotbench/test.tsv", shots, stills, rng)
    _table(benchmarks / "refineshot/test.tsv", shots, stills, rng)


def film(camera: Camera, names: Sequence[str]) -> dict[str, Shot]:
    """A clip of each name, the motions taking turns."""
    return {
        name: camera.film(
            name, PRIMITIVES[number % len(PRIMITIVES)], fps=RATES[number % 4], size=SIZES[number // 2 % 4]
        )
        for number, name in enumerate(names)
    }


def photograph(camera: Camera) -> dict[str, bool]:
    """Stills, and whether the picture of each is coarse."""
    stills = {f"still{number:02d}.jpg": number % 2 == 1 for number in range(6)}
    for number, (name, poor) in enumerate(stills.items()):
        camera.photograph(name, poor, ((128, 72), (72, 128), (200, 84))[number % 3])
    return stills


def _names(split: str, count: int) -> list[str]:
    """As CameraBench's clips are called: a number or an id, then the numbers of cuts; one has a space and an umlaut."""
    names = [f"{split}{number:04d}.{number % 3}.mp4" for number in range(count)]
    names[4] = f"Müller {split} (4K).1.mp4"
    return names


def sft_records(shots: dict[str, Shot], rng: np.random.Generator) -> list[dict[str, Any]]:
    """ShareGPT conversations with chains, and four that no sample can be made of."""
    records = []
    for name, shot in shots.items():
        for motion in (shot.motion, words.another(rng, shot.motion)):
            question, shows = words.yes_no(motion, shot)
            records.append(_conversation(name, question, ["No", "Yes"], words.chain(shot, "B" if shows else "A")))
        options, letter = words.options_with(rng, shot.motion, 4)
        records.append(_conversation(name, words.WHICH, options, words.chain(shot, letter)))
    shot = next(iter(shots.values()))
    turns = records[0]["messages"]
    odd = [
        {"messages": turns, "images": ["image/still.jpg"]},  # about a picture
        {"messages": turns + turns, "videos": records[0]["videos"]},  # two questions
        _conversation(next(iter(shots)), words.WHICH, ["pan left", "pan right"], words.chain(shot, "C")),
        _conversation(BROKEN, words.WHICH, ["static", "pan right"], words.chain(shot, "A")),  # cannot be decoded
    ]
    return [*records[:7], *odd, *records[7:]]


def _conversation(video: str, question: str, options: list[str], chain: str) -> dict[str, Any]:
    asked = "\n".join([f"<video>{question}", "Options:", *words.lettered(options)])
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": chain}],
        "videos": [f"video/{video}"],
    }


def rl_records(shots: dict[str, Shot], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Problems with options, and one about a picture."""
    asked = []
    for name, shot in shots.items():
        motion = shot.motion if rng.random() < 0.5 else words.another(rng, shot.motion)
        question, shows = words.yes_no(motion, shot)
        asked.append((name, question, ["No", "Yes"], "B" if shows else "A"))
    for name, shot in list(shots.items())[:15]:
        options, letter = words.options_with(rng, shot.motion, 4)
        asked.append((name, words.WHICH, options, letter))
    records = [
        {
            "problem_id": number,
            "problem": question,
            "data_type": "video",
            "problem_type": "multiple choice",
            "options": words.lettered(options),
            "videos": [f"video/{name}"],
            "answer": f"<answer>{letter}</answer>",
        }
        for number, (name, question, options, letter) in enumerate(asked, 1)
    ]
    picture = records[0] | {"problem_id": 0, "data_type": "image", "videos": [], "images": ["image/still.jpg"]}
    return [*records[:3], picture, *records[3:]]


def _binary(folder: Path, shots: dict[str, Shot], rng: np.random.Generator) -> None:
    """Of each primitive one file: as many questions with the answer Yes as clips show it, and as many with No."""
    for published, motion in PUBLISHED.items():
        yes = [name for name, shot in shots.items() if shot.motion == motion]
        no = rng.choice([name for name in shots if name not in yes], len(yes), replace=False).tolist()
        file = published.replace(" ", "_")
        rows = [
            {
                "image": name,
                "question": words.yes_no(motion, shots[name])[0],
                "label": "Yes" if name in yes else "No",
                "task": published,
                "label_name": f"cam_motion.camera_centric_movement.{motion}.has_{motion}",
            }
            for name in [*yes, *no]
        ]
        write_lines(folder / f"{file}.jsonl", rows)


def _vqa(folder: Path, shots: dict[str, Shot], rng: np.random.Generator) -> None:
    """Pairs of clips with opposite answers to two questions, one file per task."""
    for number, (skill, tasks) in enumerate(SKILLS.items()):
        for one, other in words.pairs()[number :: len(SKILLS)][:tasks]:
            pos, neg = (rng.choice([n for n, shot in shots.items() if shot.motion == m]) for m in (one, other))
            ask, deny = (words.yes_no(motion, shots[pos])[0] for motion in (one, other))
            task = f"{one}_vs_{other}"
            row = {"skill": "camera_movement", "task": task, "images": [pos, neg], "texts": [ask, deny]}
            row |= {"pos_video": pos, "neg_video": neg, "pos_text": ask, "neg_text": deny}
            write_lines(folder / skill / f"{task}.jsonl", [row | {"pos_question": ask, "neg_question": deny}])


def _table(path: Path, shots: dict[str, Shot], stills: dict[str, bool], rng: np.random.Generator) -> None:
    """ShotBench's table: literals in both of its notations; rows about clips, and about stills."""
    lines = ["index\ttype\tpath\tquestion\toptions\tanswer\tcategory"]
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, (name, shot) in enumerate(shots.items()):
        options, letter = words.options_with(rng, shot.motion, 4)
        lines.append(_row(number, "video", f"video/{name}", options, letter, "camera movement"))
    for number, (name, poor) in enumerate(stills.items(), len(lines) - 1):
        row = _row(number, "image", f"image/{name}", ["sharp", "coarse"], "B" if poor else "A", "lighting")
        lines.insert(2 * number % len(lines) + 1, row)
    write_text(path, "\n".join(lines) + "\n")


def _row(number: int, kind: str, path: str, options: list[str], letter: str, category: str) -> str:
    quoted = json.dumps(dict(zip("ABCD", options))).replace('"', '""')
    asked = f"What's the {category} in this movie shot?"
    return f'{number}\t"[""{kind}""]"\t{[path]}\t{asked}\t"{quoted}"\t{letter}\t{category}'
