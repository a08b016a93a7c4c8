"""Pairs for RL: which twin a question gets, their order, and the turned clips."""

from pathlib import Path

import numpy as np
import pytest

from data_tools.media.budget import Budget
from data_tools.media.normalise import normalise, turn_clip
from data_tools.pairs import paired, write_turned
from data_tools.rendered.questions import RenderedClip, binary_samples, choice_samples
from data_tools.rendered.scene import read_clip, write_clip
from rewards.motions import NAMES, PRIMITIVES

CLIPS = [RenderedClip(f"clips/{motion}.mp4", motion, "scene") for motion in PRIMITIVES]
RNG = np.random.default_rng(0)
SAMPLES = [*binary_samples(CLIPS, 60, "rl", RNG), *choice_samples(CLIPS, 15, "rl", RNG)]
GROUNDING = SAMPLES[0].model_copy(
    update={"task": "temporal_grounding", "options": [], "answer": "", "spans": [[0.0, 1.0]], "duration": 2.0}
)


def test_a_question_is_followed_by_its_twin_and_the_order_is_the_seed_s():
    found, reasons = paired(SAMPLES, ["mirrored", "reversed"], 0, shuffle=True)
    assert len(found) == 2 * len(SAMPLES) and not reasons
    for one, other in zip(found[::2], found[1::2]):
        turn = other.extras["turn"]
        assert (other.id, other.extras["twin_of"], other.video) == (
            f"{one.id}~{turn}",
            one.id,
            f"twins/{turn}/{one.video}",
        )
        assert (one.question, one.options) == (other.question, other.options)
        gold = [sample.options.index(sample.answer_text) for sample in (one, other)]
        assert one.extras["counterpart"][gold[0]] == gold[1] and other.extras["counterpart"][gold[1]] == gold[0]
    assert {sample.extras.get("turn") for sample in found} == {None, "mirrored", "reversed"}
    again, _ = paired(SAMPLES, ["mirrored", "reversed"], 0, shuffle=True)
    others, _ = paired(SAMPLES, ["mirrored", "reversed"], 1, shuffle=True)
    assert again == found != others and {s.id for s in found[::2]} == {s.id for s in SAMPLES}
    given, _ = paired(SAMPLES, ["mirrored"], 0, shuffle=False)
    assert [sample.id for sample in given[::2]] == [sample.id for sample in SAMPLES]


def test_a_choice_asks_for_the_counterpart_of_each_option():
    found, _ = paired([s for s in SAMPLES if s.task == "choice"], ["mirrored"], 0, shuffle=False)
    for sample in found:
        other = {sample.options[a]: sample.options[b] for a, b in enumerate(sample.extras["counterpart"])}
        assert other[NAMES["pan_left"]] == NAMES["pan_right"] and other[NAMES["tilt_up"]] == NAMES["tilt_up"]


@pytest.mark.parametrize("seed", range(3))
def test_of_balanced_pairs_as_many_answers_are_yes_as_no(seed):
    samples = list(binary_samples(CLIPS, 60, "rl", np.random.default_rng(seed)))
    assert [sample.gold for sample in samples].count("Yes") == 30
    everything, _ = paired(samples, ["mirrored", "reversed"], seed, shuffle=True)
    found, reasons = paired(samples, ["mirrored", "reversed"], seed, shuffle=True, balanced=True)
    assert [sample.gold for sample in everything].count("Yes") < 0.45 * len(everything)
    assert [sample.gold for sample in found].count("Yes") == len(found) / 2
    assert len(reasons) == (len(everything) - len(found)) / 2 > 0 and len(set(reasons)) == 1
    kept = {sample.id for sample in found}
    changing = [a for a, b in zip(everything[::2], everything[1::2]) if a.answer != b.answer]
    assert {sample.id for sample in changing} <= kept
    for one, other in zip(found[::2], found[1::2]):
        assert other.extras["twin_of"] == one.id


def test_questions_without_a_twin_come_two_by_two_so_that_no_pair_is_parted():
    alone = [GROUNDING.model_copy(update={"id": f"g{number}"}) for number in range(5)]
    mixed = [*alone[:2], *SAMPLES[:3], *alone[2:]]
    for shuffle in (True, False):
        found, reasons = paired(mixed, ["mirrored"], 0, shuffle)
        assert len(found) == 6 + 4 and reasons == ["task temporal_grounding"] * 5
        for one, other in zip(found[::2], found[1::2]):
            assert ("counterpart" in one.extras) == ("counterpart" in other.extras)


def test_a_contrast_is_the_same_question_with_the_same_answer_about_shuffled_frames():
    asked = [*SAMPLES, GROUNDING]
    found, reasons = paired(asked, ["shuffled"], 0, shuffle=True)
    assert len(found) == 2 * len(asked) and not reasons
    for one, other in zip(found[::2], found[1::2]):
        assert (other.id, other.video) == (f"{one.id}~shuffled", f"twins/shuffled/{one.video}")
        kept = ("task", "question", "options", "answer", "spans")
        assert [getattr(one, name) for name in kept] == [getattr(other, name) for name in kept]
        assert one in asked and other.extras == one.extras | {"turn": "shuffled", "twin_of": one.id}
    pictures = SAMPLES[0].model_copy(update={"video": None, "images": ["a.jpg"]})
    assert paired([pictures] * 2, ["shuffled"], 0, shuffle=False)[1] == ["images are not turned for training"] * 2


@pytest.mark.parametrize("turn", ["mirrored", "reversed"])
def test_a_turned_clip_has_the_same_pixels_turned_and_twice_is_as_before(tmp_path: Path, turn):
    frames = np.random.default_rng(0).integers(0, 255, (6, 56, 84, 3), np.uint8)
    source, once, twice = (tmp_path / f"{name}.mp4" for name in ("source", "once", "twice"))
    write_clip(source, frames, 4.0)
    clip = normalise(source, Budget(4.0, 6, 4, 56 * 84, 28 * 28), tmp_path / "store")
    made = tmp_path / "store" / clip.video
    shown = read_clip(made)
    turn_clip(made, once, turn)
    turn_clip(once, twice, turn)
    assert np.array_equal(read_clip(once), shown[::-1] if turn == "reversed" else shown[:, :, ::-1])
    assert twice.read_bytes() == made.read_bytes()


def test_a_shuffled_clip_has_the_same_frames_in_an_order_that_its_name_decides(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 255, (8, 56, 56, 3), np.uint8)
    (tmp_path / "other").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, frames, 2.0)
        turn_clip(tmp_path / name, tmp_path / "other" / name, "shuffled")
    turn_clip(tmp_path / "a.mp4", tmp_path / "again.mp4", "shuffled")
    shown, one, other = (read_clip(tmp_path / name) for name in ("a.mp4", "other/a.mp4", "other/b.mp4"))
    order = [int(np.argmin([np.abs(frame.astype(int) - old).sum() for old in shown])) for frame in one]
    assert sorted(order) == list(range(8)) != order and np.array_equal(one, shown[order])
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "other/a.mp4").read_bytes()
    assert not np.array_equal(one, other)


def test_the_clip_of_a_twin_is_written_below_the_media_root_once(tmp_path: Path):
    _, other = paired(SAMPLES[:1], ["mirrored"], 0, shuffle=False)[0]
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / str(SAMPLES[0].video), np.zeros((4, 56, 56, 3), np.uint8), 2.0)
    write_turned(tmp_path, other)
    written = (tmp_path / str(other.video)).stat().st_mtime_ns
    write_turned(tmp_path, other)
    assert (tmp_path / str(other.video)).stat().st_mtime_ns == written
