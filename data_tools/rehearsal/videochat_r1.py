"""VideoChat-R1's files: moments, tracked boxes and grounded questions to train and test on, quality, captions, choices.

videos/{charades,activitynet,nextqa,got,quality,fiber}/...mp4
GOT-10k/{train,val}/<sequence>/...jpg, of which data_tools.frames makes videos/got/
Annotations/{Charades,ActivityNet,Got,NextGQA,VideoEval}/...
events.jsonl: captions with their events
benchmarks/: data_tools/rehearsal/benchmarks.py
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from data_tools.files import write_json
from data_tools.frames import FramesArguments
from data_tools.frames import main as make_clips
from data_tools.rehearsal import benchmarks, words
from data_tools.rehearsal.clips import Camera, Shot
from data_tools.rendered.scene import read_clip
from rewards.motions import NAMES

BENCHMARKS = ("mvbench", "videomme", "perception_test", "dream1k")
BOXES = 8  # of a sequence
BROKEN = "BROKE"
QUALITY = "How about the quality of the video from an aesthetic and technical point of view? Choice one answer from {}."


def write(folder: Path, seed: int = 0) -> None:
    """Write all files under `folder`; the same seed gives the same bytes."""
    camera, rng = Camera(folder / "videos", seed), np.random.default_rng([seed, 3])
    labels = folder / "Annotations"
    camera.break_off(f"charades/{BROKEN}.mp4")
    charades = labels / "Charades/charades_annotation"
    _write(charades / "train.json", moments(camera, "charades/R{:03d}K", 24) | _odd_moments())
    _write(charades / "charades_test.json", moments(camera, "charades/T{:03d}Q", 8))
    _write(labels / "ActivityNet/activitynet_annotation/test.json", moments(camera, "activitynet/v_Ü{:03d} -x", 6))
    for split, count in {"train": 20, "val": 8}.items():
        _write(labels / f"Got/got_{split}.json", sequences(Camera(folder / "GOT-10k", seed), split, count))
        given = FramesArguments(files=[folder / "GOT-10k" / split], to=folder / "videos/got", fps=2.0, frames=BOXES)
        make_clips(given)
    for split, count in {"val": 20, "test": 8}.items():
        _write(labels / f"NextGQA/nextgqa_{split}.json", grounded(camera, rng, split, count))
    grades = labels / "VideoEval/Quality_Access/annotations"
    _write(grades / "Quality_Access_test.json", quality(camera, 8))
    _write(grades / "Quality_Access_100shot.json", quality(camera, 16, first=100))
    words.write_lines(folder / "events.jsonl", captions(camera, 16))
    benchmarks.write(folder / "benchmarks", BENCHMARKS, seed)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def _moving(number: int) -> str:
    return words.MOVING[number % len(words.MOVING)]


def _moment(camera: Camera, name: str, number: int) -> Shot:
    return camera.film(name, _moving(number), "moment", seconds=6, fps=(2.0, 3.0)[number % 2])


def moments(camera: Camera, names: str, count: int) -> dict[str, Any]:
    """By video: duration, and when which sentence is true."""
    found = {}
    for number in range(count):
        name = names.format(number)
        shot = _moment(camera, f"{name}.mp4", number)
        start, end = shot.span or (0.0, 0.0)
        sentence = f"The camera does a {NAMES[shot.motion]}."
        found[PurePosixPath(name).name] = {
            # As published, some durations are shorter than what happens in them.
            "duration": shot.duration if number % 3 else end - 0.1,
            "timestamps": [[start, end]],
            "sentences": [sentence if number % 2 else f" {sentence.lower()}"],
        }
    return found


def _odd_moments() -> dict[str, Any]:
    """A moment that ends before it starts, and one of a video that cannot be decoded."""
    return {
        "LE0L6": {"duration": 12.0, "timestamps": [[8.0, 7.0]], "sentences": ["a person opens the door."]},
        BROKEN: {"duration": 12.0, "timestamps": [[0.0, 6.9]], "sentences": ["a person closes the door."]},
    }


def sequences(camera: Camera, split: str, count: int) -> list[dict[str, Any]]:
    """Eight boxes of one object in each sequence of pictures, named by a path on the publisher's machine."""
    records = []
    for number in range(1, count + 1):
        name = f"GOT-10k_{split.capitalize()}_{number:06d}"
        film = f"{split}/{name}.mp4"
        shot = camera.film(film, _moving(number), "tracked", seconds=4, fps=2.0)
        _develop(camera.folder / film)
        records.append({"path": f"/data/GOT/raw/GOT-10k/{split}/{name}", "object": "red box", "gt": shot.boxes(BOXES)})
    return records


def _develop(film: Path) -> None:
    """A folder of pictures, numbered from 1, in place of a video file."""
    folder = film.with_suffix("")
    folder.mkdir()
    for number, picture in enumerate(read_clip(film), 1):
        Image.fromarray(picture).save(folder / f"{number:08d}.jpg", quality=95, subsampling=0)
    film.unlink()


def grounded(camera: Camera, rng: np.random.Generator, split: str, count: int) -> list[dict[str, Any]]:
    """Questions with five options and the moments that show the answer; one offers an option twice.

    The test questions have a moment that starts before the video, as published.
    """
    records: list[dict[str, Any]] = []
    for number in range(count):
        video = f"{1100 + number % 3}/{split}{number:07d}.mp4"
        shot = _moment(camera, f"nextqa/{video}", number)
        options, letter = words.options_with(rng, shot.motion, 5)
        start, end = shot.span or (0.0, 0.0)
        before = split == "test" and start == 0
        records.append(
            {
                "id": f"{split}{number:07d}_{number % 9}",
                "video": video,
                "question": "how does the camera move while it is not still",
                "options": words.lettered(options, "({}) {}"),
                "duration": shot.duration,
                "glue": [[start - 0.1 if before else start, end]],
                "type": ("TN", "CW")[number % 2],
                "answer": f"({letter})",
            }
        )
    letters = [option[1] for option in records[-1]["options"]]
    wrong = [place for place, letter in enumerate(letters) if f"({letter})" != records[-1]["answer"]]
    first, second = wrong[:2]
    records[-1]["options"][second] = f"({letters[second]}) {records[-1]['options'][first][4:]}"
    return records


def quality(camera: Camera, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Whether a picture is fine; the options stand in the instruction. Videos are numbered from `first` on."""
    records = []
    for number in range(first, first + count):
        shot = camera.film(f"quality/{number:04d}.mp4", _moving(number), "poor" if number % 2 else "motion")
        grades = ["low quality", "high quality"]
        records.append(
            {"video": f"{number:04d}.mp4", "instruction": QUALITY.format(grades), "answer": grades[not shot.poor]}
        )
    return records


def captions(camera: Camera, count: int) -> Iterator[dict[str, Any]]:
    """Captions with their events, as samples: what data_tools.events makes."""
    for number in range(count):
        shot = camera.film(f"fiber/{number:04d}.mp4", _moving(number))
        event = f"A {NAMES[shot.motion]}."  # of few words, so that a judge by words tells motions apart
        yield {
            "id": f"fiber-{number:04d}",
            "video": f"fiber/{number:04d}.mp4",
            "question": "What happens in the video?",
            "answer": f"A plain scene. {event}",
            "events": [event],
            "task": "caption",
            "source": "carebench",
            "split": "rl",
        }
