from math import exp, sqrt

import official_scorers as official
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.benchmarks import BENCHMARKS, LabelError, read_labels
from evaluation.measures.captions import camerabench, cider_d

texts = st.lists(st.sampled_from(["The", "camera", "pans", "left.", "pans,", "it", "-", "zooms"]), max_size=8).map(
    " ".join
)


def test_cider_d_as_computed_by_hand():
    # Two references of two words, no word in both: every idf is log 2 and cancels. n = 3 and 4 have no n-gram: 0.
    references = ["Pan left.", "Tilt up."]
    # All of n = 1 and 2: (10 + 10) / 4. One of two words, no pair: 10 (1 / (sqrt 2 sqrt 2)) / 4.
    assert cider_d(["pan left", "pan up"], references) == pytest.approx([5.0, 1.25])
    # "up" twice counts once (the D), and a word too many costs exp(-1 / 72):
    # n = 1: (1, 1).(1, 1) / (sqrt 5 sqrt 2); n = 2: 1 / (sqrt 2 1)
    expected = 10 * exp(-1 / 72) * (2 / sqrt(10) + 1 / sqrt(2)) / 4
    assert cider_d(["", "Tilt up, up!"], references) == pytest.approx([0.0, expected])


def test_a_word_of_every_reference_weighs_nothing_in_cider_d():
    # n = 1: "camera" has idf log(2 / 2) = 0, so that only "pans" against "tilts" is left, n = 2 has no common pair.
    assert cider_d(["camera", "camera pans"], ["camera pans", "camera tilts"]).tolist() == [0.0, 0.0]
    assert cider_d(["camera pans"], ["camera pans"]).tolist() == [0.0]  # one reference alone has no idf


@settings(max_examples=30)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_cider_d_is_bounded_and_highest_for_the_reference_itself(pairs):
    captions, references = zip(*pairs)
    told, best = cider_d(captions, references), cider_d(references, references)
    assert (told >= 0).all() and (told <= best + 1e-9).all() and (best <= 10 + 1e-9).all()


@settings(max_examples=30)
@given(texts, texts)
def test_the_numbers_of_camerabenchs_script(caption, reference):
    told = camerabench(caption, reference)
    for name, value in official.camerabench_caption(reference, caption).items():
        assert told[name] == pytest.approx(value, abs=1e-9)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in told.values())


def test_golden_rouge_and_bleu_of_a_caption():
    # Stems make "pans" and "panning" one word: 3 of 3 and 3 of 4 words in order, F = 6 / 7. BLEU-2 knows no stems:
    # 2 of 3 words, 1 of 2 pairs ("the camera"), and a caption of 3 words for 4 is short: exp(1 - 4 / 3).
    told = camerabench("The camera pans.", "The camera panning left")
    assert told["ROUGE-L"] == pytest.approx(6 / 7)
    assert told["BLEU-2"] == pytest.approx(exp(-1 / 3) * sqrt(2 / 3 * 1 / 2))


def test_parts_of_a_benchmark_without_parts_are_an_error(tmp_path):
    path = tmp_path / "caption_data.json"
    path.write_text('[{"video": "a.mp4", "question": "Describe it.", "answer": "It pans."}]')
    assert len(read_labels(BENCHMARKS["camerabench_captions"], path)) == 1
    with pytest.raises(LabelError, match="only=METEOR: this benchmark has no parts"):
        read_labels(BENCHMARKS["camerabench_captions"], path, ["METEOR"])
