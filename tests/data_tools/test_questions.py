from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.rendered.questions import (
    BINARY_QUESTIONS,
    RenderedClip,
    binary_samples,
    chain_for,
    choice_samples,
    demo_texts,
)
from rewards.motions import NAMES, PRIMITIVES, confusable, stated_motion
from rewards.response import parse


def clips(count: int) -> list[RenderedClip]:
    return [RenderedClip(f"clips/{n}.mp4", PRIMITIVES[n % 15], f"scene-{n}") for n in range(count)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_binary_questions_tell_nothing_by_themselves(seed):
    samples = list(binary_samples(clips(300), 600, "test", np.random.default_rng(seed)))
    no = [sample for sample in samples if sample.answer_text == "No"]
    assert len(no) == 300
    look_alikes = sum(sample.extras["confusable"] for sample in no)
    assert 150 <= look_alikes < 170  # by chance, a roll is also asked for the other way round
    asked = Counter((sample.extras["asked"], sample.answer_text) for sample in samples)
    assert all(abs(asked[motion, "Yes"] - asked[motion, "No"]) <= 4 for motion in PRIMITIVES)
    letters = Counter((sample.answer, sample.answer_text) for sample in samples)
    assert len(letters) == 4 and min(letters.values()) > 110  # 150 each, were the order of options exactly even


def test_the_share_of_confusable_negatives_is_a_setting():
    for share, count in ((0, 0), (0.8, 120)):
        samples = binary_samples(clips(150), 300, "rl", np.random.default_rng(0), share)
        assert sum(sample.extras["confusable"] for sample in samples) == count


def test_a_binary_question_asks_for_what_its_extras_say():
    for sample in binary_samples(clips(45), 90, "rl", np.random.default_rng(0)):
        seen, asked = sample.extras["motion"], sample.extras["asked"]
        assert sample.question == BINARY_QUESTIONS[asked]
        assert (sample.answer_text == "Yes") == (seen == asked)
        assert sample.extras["confusable"] == (asked == confusable(seen))
        assert sample.chain is None


def test_a_choice_offers_every_motion_and_no_letter_is_a_prior():
    samples = list(choice_samples(clips(600), 600, "rl", np.random.default_rng(0)))
    assert max(Counter(sample.answer for sample in samples).values()) < 70  # 40 each, were the order exactly even
    for sample in samples:
        assert sample.answer_text == NAMES[sample.extras["motion"]]
        assert sorted(sample.options) == sorted(NAMES.values())


def test_a_chain_follows_from_what_the_clip_shows():
    rng = np.random.default_rng(0)
    for sample in [*binary_samples(clips(60), 120, "sft", rng), *choice_samples(clips(60), 60, "sft", rng)]:
        response = parse(chain_for(sample))
        assert response.ok and response.answer == sample.answer_text
        assert stated_motion(response.observation) == sample.extras["motion"]
        assert NAMES[sample.extras["motion"]] in response.think
        assert NAMES[sample.extras.get("asked", sample.extras["motion"])] in response.think


def test_a_terse_chain_leaves_parallax_out_unless_it_decides():
    rng = np.random.default_rng(0)
    for sample in binary_samples(clips(150), 300, "sft", rng):
        seen, asked = sample.extras["motion"], sample.extras["asked"]
        response = parse(chain_for(sample, terse=True))
        assert response.ok and response.answer == sample.answer_text
        has_parallax = not seen.startswith(("static", "roll"))
        decides = sample.extras["confusable"] and has_parallax
        assert stated_motion(response.observation) == (seen if decides or not has_parallax else None)
        assert NAMES[asked] in response.think
        if decides:
            assert response == parse(chain_for(sample))
    for sample in choice_samples(clips(15), 15, "sft", rng):
        assert chain_for(sample, terse=True) == chain_for(sample)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="even number"):
        list(binary_samples(clips(3), 5, "sft", np.random.default_rng(0)))
    with pytest.raises(ValueError, match="one clip"):
        list(choice_samples([], 5, "sft", np.random.default_rng(0)))


def test_demo_texts_hold_every_wording():
    text = "\n".join(demo_texts())
    assert demo_texts() == demo_texts()
    assert all(name in text for name in [*NAMES.values(), *BINARY_QUESTIONS.values()])
