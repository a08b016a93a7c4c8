"""Label files of every benchmark, synthetic, in the published formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.benchmarks.camerabench_binary import PRIMITIVES
from evaluation.benchmarks.camerabench_vqa import TASKS_PER_SKILL


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def camerabench_binary(folder: Path, per_primitive: int = 12, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in PRIMITIVES:
        videos = rng.permutation(3 * per_primitive)[:per_primitive]
        rows = [
            {
                "image": f"clip_{video}.0.mp4",
                "question": f"Does the camera {name}?",
                "label": "Yes" if place < 3 else "No" if place < 6 else str(rng.choice(["No", "Yes"], p=[0.8, 0.2])),
                "task": name.replace("_", " "),
                "label_name": f"cam_motion.{name}",
            }
            for place, video in enumerate(videos)
        ]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def camerabench_vqa(folder: Path, pairs_per_task: int = 2, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for skill, tasks in TASKS_PER_SKILL.items():
        for task in range(tasks):
            rows = []
            for _ in range(pairs_per_task):
                pos, neg = (f"clip_{video}.mp4" for video in rng.choice(40, 2, replace=False))
                ask, deny = f"Does it {skill} {task}?", f"Is it without {skill} {task}?"
                rows.append(
                    {"skill": "another name", "task": f"task_{task}", "images": [pos, neg], "texts": [ask, deny]}
                    | {"pos_video": pos, "neg_video": neg, "pos_text": ask, "neg_text": deny}
                    | {"pos_question": ask, "neg_question": deny}
                )
            write_jsonl(folder / skill / f"task_{task}.jsonl", rows)
    return folder


def camreasoner_vqa(folder: Path) -> Path:
    """As the authors make it of the pairs: question and video of each corner, yes where they belong together."""
    rows = []
    for task, ask, deny, videos in (
        ("fixed_or_moving", "Is it fixed?", "Does it move?", ("a.mp4", "b.mp4")),
        ("slow_or_fast", "Is it slow?", "Is it fast?", ("b.mp4", "c.mp4")),
    ):
        for number, (asks, shows) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), 1):
            texts, word = ((ask, deny), (deny, ask))[asks], "yes" if asks == shows else "no"
            rows.append(
                {
                    "problem_id": f"{task}-{number}",
                    "problem": f"Which of the following options is more likely to have the answer '{word}'?",
                    "data_type": "video",
                    "problem_type": "multiple choice",
                    "options": [f"A. {texts[0]}", f"B. {texts[1]}"],
                    "process": "",
                    "solution": f"<answer>{'A' if asks == shows else 'B'}</answer>",
                    "path": f"video/{videos[shows]}",
                    "data_source": "camerabench",
                    "dataset": "camerabench",
                    "output": [],
                }
            )
    return write_json(folder / "camerabench_vqa.json", rows)


def camerabench_captions(folder: Path) -> Path:
    rows = [
        {"video": f"{i}.mp4", "question": "Describe the camera.", "answer": f"The camera pans {way}."}
        for i, way in enumerate(("left", "right slowly", "left and then zooms in"))
    ]
    return write_json(folder / "caption_data.json", rows)


def shotbench(folder: Path) -> Path:
    lines = ["index\ttype\tpath\tquestion\toptions\tanswer\tcategory"]
    for i in range(8):
        options = json.dumps({"A": "Push in", "B": "Arc", "C": "Pan left", "D": "Pull out"}).replace('"', '""')
        category = ("camera movement", "shot size")[i % 2]
        # Both forms of literals occur in the published file.
        lines.append(f'{i}\t"[""video""]"\t[\'video/{i // 2}.mp4\']\tWhat?\t"{options}"\t{"ABCD"[i % 4]}\t{category}')
    path = folder / "test.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def vidtab_qa(folder: Path) -> Path:
    asked = "How about the quality of the video? Choice one answer from ['low quality', 'high quality']."
    rows = [
        {"video": f"{i}.mp4", "instruction": asked, "answer": ("low quality", "high quality")[i % 2]} for i in range(6)
    ]
    return write_json(folder / "test.json", rows)


def mvbench(folder: Path) -> Path:
    for task in range(20):
        candidates = ["Ate it.", "Left it.", "Took it."]
        rows = [
            {
                "video": f"{task}-{i}.mp4",
                "question": "What happened?",
                "candidates": candidates,
                "answer": candidates[i % 3],
            }
            for i in range(3)
        ]
        write_json(folder / f"task_{task}.json", rows)
    return folder


def videomme(folder: Path) -> Path:
    rows = []
    for video in range(4):
        questions = [
            {
                "question_id": f"{video:03d}-{i}",
                "task_type": ("Counting Problem", "OCR Problems")[i],
                "question": "How many?",
                "options": ["A. 1.", "B. 4.", "C. 2.", "D. 3."],
                "answer": "ABCD"[(video + i) % 4],
            }
            for i in range(2)
        ]
        rows.append({"video_id": f"{video:03d}", "duration": ("short", "long")[video % 2], "domain": "Knowledge"})
        rows[-1] |= {"sub_category": "History", "questions": questions}
    return write_json(folder / "videomme.json", rows)


def perception_test(folder: Path) -> Path:
    asked = {
        f"video_{v}": {
            "mc_question": [
                {
                    "id": i,
                    "question": "Is the camera moving?",
                    "options": ["moving", "static or shaking", "I don't know"],
                    "answer_id": (v + i) % 3,
                    "area": ("physics", "memory")[i],
                    "reasoning": "descriptive",
                    "tag": ["motion"],
                }
                for i in range(2)
            ]
        }
        for v in range(4)
    }
    return write_json(folder / "mc_question.json", asked)


def tempcompass(folder: Path) -> Path:
    choice = "What is it doing?\nA. dunking\nB. dribbling\nC. passing"
    match = "Which fits?\nOption 1: It goes up.\nOption 2: It goes down."
    content = {
        "yes_no": [("Is it fast?", "yes"), ("Is it slow?", "no")],
        "multi-choice": [(choice, "A. dunking"), (choice, "C. passing")],
        "caption_matching": [(match, "Option 2: It goes down."), (match, "Option 1: It goes up.")],
    }
    for task, asked in content.items():
        of = {a: [{"question": q, "answer": r} for q, r in asked] for a in ("action", "speed")}
        write_json(folder / f"{task}.json", {str(video): of for video in range(3)})
    return folder


def vsibench(folder: Path) -> Path:
    kinds = {
        "object_counting": (None, "4"),
        "room_size_estimation": (None, "23.5"),
        "object_rel_direction_easy": (["A. left", "B. right"], "A"),
        "object_rel_direction_hard": (["A. left", "B. right"], "B"),
        "route_planning": (["A. Turn", "B. Stay", "C. Back"], "C"),
    }
    rows = [
        {"id": 10 * i + r, "dataset": "scannet", "scene_name": f"scene{r}", "question_type": kind, "question": "?"}
        | {"options": options, "ground_truth": truth}
        for i, (kind, (options, truth)) in enumerate(kinds.items())
        for r in range(3)
    ]
    return write_jsonl(folder / "test.jsonl", rows)


def video_mmmu(folder: Path) -> Path:
    def item(i: int, open_ended: bool) -> dict:
        base = {"id": f"validation_Biology_{i}", "question": "Which?", "question_type": "multiple-choice"}
        if open_ended:
            return base | {"options": [], "answer": "42", "question_type": "open"}
        return base | {"options": ["glucose", "fructose", "ribose"], "answer": "ABC"[i % 3]}

    tracks = ("Perception", "Comprehension", "Adaptation")
    return write_json(
        folder / "videommmu.json",
        {track: {str(i): item(i, track == "Adaptation" and i == 3) for i in range(4)} for track in tracks},
    )


def mmvu(folder: Path) -> Path:
    rows = [
        {
            "id": f"validation_{i}",
            "video": f"https://host/videos/Art/{i}.mp4",
            "question_type": "multiple-choice" if i < 4 else "open-ended",
            "metadata": {"subject": "Art"},
            "question": "Which technique?",
            "choices": {"A": "Pan", "B": "Crane", "C": "Tilt"} if i < 4 else {"A": "", "B": "", "C": ""},
            "answer": "ABC"[i % 3] if i < 4 else "a dolly zoom",
        }
        for i in range(6)
    ]
    return write_json(folder / "validation.json", rows)


def charades_sta(folder: Path) -> Path:
    content = {
        f"V{v}": {
            "duration": 30.96,
            "timestamps": [[2.0 * v, 2.0 * v + 6.1], [10, 20.5]],
            "sentences": ["Opens it.", "sits."],
        }
        for v in range(5)
    }
    return write_json(folder / "test.json", content)


def nextgqa(folder: Path) -> Path:
    rows = [
        {
            "id": f"{v}_{q}",
            "video": f"1101/{v}.mp4",
            "question": "what did it do",
            "options": ["(A) clap", "(B) sit", "(C) lie", "(D) pick", "(E) crawl"],
            "duration": 30,
            "glue": [[3.0, 7.5], [10.0, 12.0]][: 1 + q],
            "type": ("TN", "CW")[q],
            "answer": f"({'ABCDE'[(v + q) % 5]})",
        }
        for v in range(4)
        for q in range(2)
    ]
    return write_json(folder / "nextgqa_test.json", rows)


def got10k(folder: Path) -> Path:
    rows = [
        {
            "path": f"val/GOT-10k_Val_{i:06d}",
            "object": "sloth",
            "gt": [[0.1 + 0.01 * f, 0.1 * (i + 1), 0.4 + 0.01 * f, 0.1 * (i + 1) + 0.3] for f in range(8)],
        }
        for i in range(5)
    ]
    return write_json(folder / "got_val.json", rows)


def got10k_official(folder: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for i in range(4):
        sequence = folder / f"GOT-10k_Val_{i:06d}"
        sequence.mkdir(parents=True)
        boxes = np.column_stack([rng.uniform(-10, 400, (9, 2)), rng.uniform(20, 200, (9, 2))]).round(4)
        np.savetxt(sequence / "groundtruth.txt", boxes, fmt="%.4f", delimiter=",")
        np.savetxt(sequence / "cover.label", rng.integers(0, 3, 9), fmt="%d")
        (sequence / "meta_info.ini").write_text("[METAINFO]\nurl: x\nanno_fps: 10Hz\nresolution: (640, 480)\n")
    return folder


def dream1k(folder: Path) -> Path:
    rows = []
    for i in range(4):
        video = {"type": "video", "text": None, "reference": None, "video": {"video_file": f"videos/{i}.mp4"}}
        video["video"] |= {} if i else {"video_file": "<placeholder>"}  # as published; a video is named by its vid
        ask = {"type": "text", "text": "Describe the video in detail.", "reference": None, "video": None}
        told = {"type": "text", "text": "", "reference": "The camera pans left. A man waves.", "video": None}
        messages = [{"role": "user", "content": [video, ask]}, {"role": "assistant", "content": [told]}]
        extra = {"duration": 5.1, "events": ["The camera pans left.", "A man waves."], "n_events": 2}
        dataset = ("DREAM/movie_animation", "DREAM/stock")[i % 2]
        rows.append({"messages": messages, "dataset": dataset, "task": "video/caption", "idx": i, "extra_info": extra})
        rows[-1] |= {"vid": i}
    return write_jsonl(folder / "DREAM-1k.jsonl", rows)


def vcrbench(folder: Path) -> Path:
    rows = [
        {
            "id": i,
            "video_path": f"video/{i}.mp4",
            "duration": 40 * (i + 1),
            "dimension": ("Temporal Spatial Reasoning", "Video Plot Analysis")[i % 2],
            "question": "In which room does it happen?",
            "multiple-choice": i % 2 == 0,
            "choices": {"A": "Hall", "B": "Kitchen", "C": "Yard", "D": "Attic"} if i % 2 == 0 else {"A": "", "B": ""},
            "answer": "B" if i % 2 == 0 else "Kitchen",
            "reasoning": ["1. the scene is in the hall.", "2. they walk into the kitchen."],
        }
        for i in range(4)
    ]
    return write_json(folder / "input.json", rows)


LABELS: dict[str, Callable[[Path], Path]] = {
    "camerabench_binary": camerabench_binary,
    "camerabench_vqa": camerabench_vqa,
    "camreasoner_vqa": camreasoner_vqa,
    "camerabench_captions": camerabench_captions,
    "shotbench": shotbench,
    "refineshot": shotbench,
    "vidtab_qa": vidtab_qa,
    "mvbench": mvbench,
    "videomme": videomme,
    "perception_test": perception_test,
    "tempcompass": tempcompass,
    "vsibench": vsibench,
    "video_mmmu": video_mmmu,
    "mmvu": mmvu,
    "charades_sta": charades_sta,
    "activitynet": charades_sta,
    "nextgqa": nextgqa,
    "got10k": got10k,
    "got10k_official": got10k_official,
    "dream1k": dream1k,
    "vcrbench": vcrbench,
}
