"""The official definitions, written plainly and one item at a time, to hold our vectorised scorers against."""

import csv
import json
import math
import string
from itertools import pairwise
from statistics import mean

from sklearn.metrics import average_precision_score, roc_auc_score


def camerabench_binary(labels: dict[str, list[bool]], scores: dict[str, list[float]]) -> tuple[float, float]:
    """Macro AP and ROC-AUC (t2v_metrics, camerabench/binary_classification_evaluation.py)."""
    return (
        mean(average_precision_score(labels[name], scores[name]) for name in labels),
        mean(roc_auc_score(labels[name], scores[name]) for name in labels),
    )


def camerabench_vqa(pairs: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Acc, Q-Acc and retrieval of one group (t2v_metrics, camerabench/vqa_and_retrieval_evaluation.py).

    `pairs`: {"yes": {"pos_pos": ..., "pos_neg", "neg_pos", "neg_neg"}, "no": {...}}, named question_video.
    """
    acc = q_acc = text = image = group = 0
    for pair in pairs:
        yes, no = pair["yes"], pair["no"]
        right = {
            "pos_pos": yes["pos_pos"] > no["pos_pos"],
            "pos_neg": no["pos_neg"] > yes["pos_neg"],
            "neg_pos": no["neg_pos"] > yes["neg_pos"],
            "neg_neg": yes["neg_neg"] > no["neg_neg"],
        }
        acc += sum(right.values())
        q_acc += (right["pos_pos"] and right["pos_neg"]) + (right["neg_pos"] and right["neg_neg"])
        by_text = yes["pos_pos"] > yes["neg_pos"] and yes["neg_neg"] > yes["pos_neg"]
        by_image = yes["pos_pos"] > yes["pos_neg"] and yes["neg_neg"] > yes["neg_pos"]
        text += by_text
        image += by_image
        group += by_text and by_image
    n = len(pairs)
    return {"Acc": acc / (4 * n), "Q-Acc": q_acc / (2 * n), "Text": text / n, "Image": image / n, "Group": group / n}


def camerabench_caption(reference: str, caption: str) -> dict[str, float]:
    """What t2v_metrics, camerabench/caption_evaluation.py calls METEOR, CIDEr and SPICE."""

    def split(text: str) -> list[str]:
        return "".join(c for c in text.lower() if c not in string.punctuation).split()

    r, c = split(reference), split(caption)
    if not r or not c:
        return {"METEOR-like": 0.0, "CIDEr-like": 0.0, "SPICE-like": 0.0}
    two_r, two_c = set(pairwise(r)), set(pairwise(c))
    one, two = len(set(r) & set(c)), len(two_r & two_c)
    p = 0.8 * one / len(set(c)) + 0.2 * (two / len(two_c) if two_c else 0)
    q = 0.8 * one / len(set(r)) + 0.2 * (two / len(two_r) if two_r else 0)
    dot = sum(r.count(word) * c.count(word) for word in {*r, *c})
    lengths = [math.sqrt(sum(text.count(word) ** 2 for word in set(text))) for text in (r, c)]
    return {
        "METEOR-like": 10 * p * q / (q + 9 * p) if p + q else 0.0,
        "CIDEr-like": dot / (lengths[0] * lengths[1]),
        "SPICE-like": 2 * one / (len(set(r)) + len(set(c))),  # F1 of sets
    }


def temporal_iou(a: list[float], b: list[float]) -> float:
    """As VideoChat-R1's evaluation has it."""
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / (max(a[1], b[1]) - min(a[0], b[0]))


def got10k(
    sequences: list[tuple[list[list[float]], list[list[float]], list[int], tuple[int, int]]],
) -> tuple[float, float]:
    """AO and SR at 0.5 (got-10k toolkit): predicted and gold (left, top, width, height), cover, (width, height)."""
    ious = []
    for predicted, gold, cover, (width, height) in sequences:
        for p, g, seen in list(zip(predicted, gold, cover))[1:]:
            if not seen:
                continue
            corners = []
            for left, top, w, h in (p, g):
                x, y = min(max(left, 0), width), min(max(top, 0), height)
                corners.append((x, y, x + min(max(w, 0), width - x), y + min(max(h, 0), height - y)))
            (a, b, c, d), (e, f, i, j) = corners
            common = max(0, min(c, i) - max(a, e)) * max(0, min(d, j) - max(b, f))
            union = (c - a) * (d - b) + (i - e) * (j - f) - common
            ious.append(common / union if union else 0.0)
    return mean(ious), mean(iou > 0.5 for iou in ious)


# ---------------------------------------------------------------- questions with options, from the raw files
# Each gives (group, id, options, the right one of them), as they stand there.


def _mvbench(folder):
    for file in folder.glob("*.json"):
        for place, row in enumerate(json.loads(file.read_text())):
            yield f"task: {file.stem}", f"{file.stem}-{place}", row["candidates"], row["answer"]


def _videomme(path):
    for video in json.loads(path.read_text()):
        for row in video["questions"]:
            right = next(option for option in row["options"] if option.startswith(row["answer"]))
            yield f"duration: {video['duration']}", row["question_id"], row["options"], right


def _perception_test(path):
    for video, asked in json.loads(path.read_text()).items():
        for row in asked["mc_question"]:
            yield f"area: {row['area']}", f"{video}-{row['id']}", row["options"], row["options"][row["answer_id"]]


def _vidtab_qa(path):
    for row in json.loads(path.read_text()):
        yield "over questions", row["video"], ["low quality", "high quality"], row["answer"]


def _tempcompass(folder):
    for task in ("yes_no", "multi-choice", "caption_matching"):
        for video, aspects in json.loads((folder / f"{task}.json").read_text()).items():
            for aspect, rows in aspects.items():
                for place, row in enumerate(rows):
                    options = ["no", "yes"] if task == "yes_no" else row["question"].split("\n")[1:]
                    yield task, f"{task}-{video}-{aspect}-{place}", options, row["answer"]


def _mmvu(path):
    for row in json.loads(path.read_text()):
        if row["question_type"] == "multiple-choice":
            choices = row["choices"]
            yield "multiple-choice", row["id"], list(choices.values()), choices[row["answer"]]


def _shotbench(path):
    for row in csv.DictReader(path.open(), delimiter="\t"):
        options = json.loads(row["options"])
        yield f"category: {row['category']}", row["index"], list(options.values()), options[row["answer"]]


OPTIONS = {
    "mvbench": _mvbench,
    "videomme": _videomme,
    "perception_test": _perception_test,
    "vidtab_qa": _vidtab_qa,
    "tempcompass": _tempcompass,
    "mmvu": _mmvu,
    "shotbench": _shotbench,
}
