"""The general benchmarks in their published forms: label files, and the videos in the folders that they lie in.

<benchmark>/labels...  <benchmark>/videos/..., or where its archives have them
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from data_tools.files import whole_path, write_json
from data_tools.rehearsal import words
from data_tools.rehearsal.clips import Camera, Kind, Shot
from data_tools.rendered.questions import BINARY_QUESTIONS
from rewards.motions import NAMES, observation

CLIPS = 6  # of each benchmark
VIDEOS = {"vcrbench": "v1/videos", "videomme": "data"}  # all others: videos
VSI_CHOICE, VSI_NUMBER = "route_planning", "object_size_estimation"


class Studio:
    """Clips of a benchmark, one motion after the other."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.camera = Camera(folder / VIDEOS.get(folder.name, "videos"), seed)
        self.rng = np.random.default_rng([seed, *folder.name.encode()])
        self.number = int(self.rng.integers(len(words.MOVING)))

    def film(self, name: str, kind: Kind = "motion") -> Shot:
        self.number += 1
        return self.camera.film(name, words.MOVING[self.number % len(words.MOVING)], kind, seconds=3, fps=3.0)

    def choice(self, shot: Shot, count: int = 4) -> tuple[list[str], str]:
        return words.options_with(self.rng, shot.motion, count)


def write(folder: Path, names: Iterable[str], seed: int = 0) -> None:
    """Write the named benchmarks, each into a folder of its own."""
    for name in names:
        WRITERS[name](folder / name, Studio(folder / name, seed))


def _vsibench(folder: Path, studio: Studio) -> None:
    """Choices and numbers; videos by data set and scene."""
    rows = []
    for number in range(CLIPS):
        dataset, scene = ("scannet", "arkitscenes")[number % 2], f"scene{number:04d}_00"
        shot = studio.film(f"{dataset}/{scene}.mp4", "tracked")
        options, letter = studio.choice(shot)
        left, _, right, _ = shot.boxes(2)[0]
        common = {"dataset": dataset, "scene_name": scene}
        rows.append(
            {"id": 2 * number, **common, "question_type": VSI_CHOICE, "question": words.WHICH}
            | {"options": words.lettered(options), "ground_truth": letter}
        )
        asked = "How wide is the red box in the first frame, in percent of the picture's width?"
        rows.append(
            {"id": 2 * number + 1, **common, "question_type": VSI_NUMBER, "question": asked}
            | {"options": None, "ground_truth": f"{100 * (right - left):.0f}"}
        )
    words.write_lines(folder / "test.jsonl", rows)


def _video_mmmu(folder: Path, studio: Studio) -> None:
    """Three tracks; a video is named by its id and lies in the folder of its discipline."""
    for place, track in enumerate(("Perception", "Comprehension", "Adaptation"), 1):
        asked = {}
        for number in range(CLIPS // 2):
            subject = ("Art_Theory", "Music")[number % 2]
            name = f"{'dev' if number == 0 else 'validation'}_{subject}_{place}{number}"
            options, letter = studio.choice(studio.film(f"Art/{name}.mp4"))
            asked[str(number)] = {
                "id": name,
                "question": words.WHICH,
                "options": options,
                "answer": letter,
                "question_type": "multiple-choice",
            }
        (folder / "data").mkdir(parents=True, exist_ok=True)
        write_json(folder / "data" / f"{track.lower()}_video.json", {track: asked})


def _mmvu(folder: Path, studio: Studio) -> None:
    """Choices, and open questions that only a judge can grade; videos by subject, named by their address."""
    rows = []
    for number in range(CLIPS):
        subject = ("Art", "Computer_Science")[number % 2]
        shot = studio.film(f"{subject}/{number}.mp4")
        options, letter = studio.choice(shot, 5)
        opened = number == CLIPS - 1
        rows.append(
            {
                "id": f"validation_{number}",
                "video": f"https://example.org/datasets/mmvu/videos/{subject}/{number}.mp4",
                "question_type": "open-ended" if opened else "multiple-choice",
                "metadata": {"subject": subject, "textbook": "", "rationale": "", "knowledge": []},
                "question": words.WHICH,
                "choices": dict.fromkeys("ABCDE", "") if opened else dict(zip("ABCDE", options)),
                "answer": NAMES[shot.motion] if opened else letter,
            }
        )
    write_json(folder / "validation.json", rows)


def _vcrbench(folder: Path, studio: Studio) -> None:
    """Choices and open questions with reference steps, graded by a judge."""
    rows = []
    for number in range(CLIPS):
        shot = studio.film(f"video/clip {number}.mp4")
        options, _ = studio.choice(shot)
        choice = number % 2 == 0
        rows.append(
            {
                "id": number,
                "video_path": f"video/clip {number}.mp4",
                "duration": 40 * (number + 1),
                "dimension": ("Temporal Spatial Reasoning", "Video Plot Analysis")[number % 2],
                "question": words.WHICH,
                "multiple-choice": choice,
                "choices": dict(zip("ABCD", options)) if choice else dict.fromkeys("ABCD", ""),
                "answer": ascii_uppercase[options.index(NAMES[shot.motion])] if choice else NAMES[shot.motion],
                "reasoning": [f"1. {observation(shot.motion)}", f"2. {words.happens(shot)}"],
            }
        )
    write_json(folder / "v1/videos/meta_info_video.json", rows)


def _tempcompass(folder: Path, studio: Studio) -> None:
    """Three tasks, each a file of questions by video and aspect."""
    yes_no, choice, matching = {}, {}, {}
    for number in range(CLIPS // 2):
        video = f"10{number:08d}"
        shot = studio.film(f"{video}.mp4")
        other = words.another(studio.rng, shot.motion)
        options, letter = studio.choice(shot, 3)
        listed = words.lettered(options)
        said = [observation(motion) for motion in studio.rng.permutation([shot.motion, other])]
        right = said.index(observation(shot.motion)) + 1
        yes_no[video] = [
            {"question": BINARY_QUESTIONS[shot.motion], "answer": "yes"},
            {"question": BINARY_QUESTIONS[other], "answer": "no"},
        ]
        choice[video] = [
            {"question": "\n".join([words.WHICH, *listed]), "answer": listed[ascii_uppercase.index(letter)]}
        ]
        lines = [f"Option {place}: {text}" for place, text in enumerate(said, 1)]
        asked = "Which description is a more suitable match for the video?"
        matching[video] = [{"question": "\n".join([asked, *lines]), "answer": lines[right - 1]}]
    for task, asked_of in {"yes_no": yes_no, "multi-choice": choice, "caption_matching": matching}.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "questions" / f"{task}.json", {v: {"direction": asked} for v, asked in asked_of.items()})


def _videomme(folder: Path, studio: Studio) -> None:
    """A table, two rows about each video, which is named by its YouTube id."""
    import pyarrow
    from pyarrow import parquet

    rows = []
    for number in range(CLIPS // 2):
        shot = studio.film(f"yT-{number}_{number:08d}.mp4")
        for place in range(2):
            options, letter = studio.choice(shot)
            rows.append(
                {
                    "video_id": f"{number + 1:03d}",
                    "videoID": f"yT-{number}_{number:08d}",
                    "duration": ("short", "medium", "long")[number % 3],
                    "domain": "Knowledge",
                    "sub_category": "Film & Television",
                    "question_id": f"{number + 1:03d}-{place + 1}",
                    "task_type": ("Action Recognition", "Spatial Perception")[place],
                    "question": words.WHICH,
                    "options": [f"{option}." for option in words.lettered(options)],
                    "answer": letter,
                }
            )
    with whole_path(folder / "videomme/test-00000-of-00001.parquet") as file:
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def _mvbench(folder: Path, studio: Studio) -> None:
    """Two of the twenty task files; their videos lie in folders by source. One asks about parts of them."""
    for task, place in {
        "action_sequence": "star/Charades_v1_480",
        "moving_direction": "clevrer/video_validation",
    }.items():
        rows = []
        for number in range(CLIPS // 2):
            name = f"{task[:3].upper()}{number:02d}.mp4"
            shot = studio.film(f"{place}/{name}")
            options, letter = studio.choice(shot)
            row = {"video": name, "question": words.WHICH, "candidates": [f"{option}." for option in options]}
            row["answer"] = row["candidates"][ascii_uppercase.index(letter)]
            rows.append(row | ({"start": 0.5, "end": 2.5} if task == "action_sequence" else {}))
        (folder / "json").mkdir(parents=True, exist_ok=True)
        write_json(folder / "json" / f"{task}.json", rows)


def _perception_test(folder: Path, studio: Studio) -> None:
    """Questions by video, which is named without its ending."""
    asked = {}
    for number in range(CLIPS // 2):
        shot = studio.film(f"video_{number}.mp4")
        options, letter = studio.choice(shot, 3)
        question = {"id": 0, "question": words.WHICH, "options": options, "answer_id": ascii_uppercase.index(letter)}
        asked[f"video_{number}"] = {
            "mc_question": [question | {"area": "physics", "reasoning": "descriptive", "tag": ["motion"]}]
        }
    write_json(folder / "mc_question_valid.json", asked)


def _dream1k(folder: Path, studio: Studio) -> None:
    """Captions with the events that they must mention, graded by a judge."""
    rows = []
    for number in range(CLIPS // 2):
        shot = studio.film(f"{number}.mp4")
        events = [observation(shot.motion), words.happens(shot)]
        video = {"type": "video", "text": None, "reference": None, "video": {"video_file": "<placeholder>"}}
        ask = {"type": "text", "text": "Describe the video in detail.", "reference": None, "video": None}
        reference = {"type": "text", "text": "", "reference": " ".join(events), "video": None}
        messages = [{"role": "user", "content": [video, ask]}, {"role": "assistant", "content": [reference]}]
        extra = {"duration": shot.duration, "events": events, "n_events": 2, "n_shots": 1, "n_subjects": 1}
        dataset = ("DREAM/movie_animation", "DREAM/stock")[number % 2]
        rows.append({"messages": messages, "dataset": dataset, "task": "video/caption", "idx": number})
        rows[-1] |= {"vid": number, "extra_info": extra}
    words.write_lines(folder / "DREAM-1k.jsonl", rows)


WRITERS: dict[str, Callable[[Path, Studio], None]] = {
    "vsibench": _vsibench,
    "video_mmmu": _video_mmmu,
    "mmvu": _mmvu,
    "vcrbench": _vcrbench,
    "tempcompass": _tempcompass,
    "videomme": _videomme,
    "mvbench": _mvbench,
    "perception_test": _perception_test,
    "dream1k": _dream1k,
}
