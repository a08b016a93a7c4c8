import asyncio
import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from rewards.geometry import box_iou, temporal_iou, union_iou
from rewards.judges.protocol import UNJUDGED, event_recall
from rewards.maths import equal
from rewards.reading import MAX_ANSWER, boxes, chosen_option, number, spans
from rewards.tasks import TaskError, accuracy, check_sample, glue_iou, gold_answer, mra
from rewards.words import Words

YES_NO = ["No", "Yes"]
BLANK = {"id": "s1", "answer": "", "options": [], "spans": [], "boxes": [], "events": []}
SAMPLES = {
    "binary": BLANK | {"options": YES_NO, "answer": "B"},
    "choice": BLANK | {"options": ["pan left", "truck left", "static"], "answer": "C"},
    "quality": BLANK | {"options": ["high", "low"], "answer": "A"},
    "grounded_qa": BLANK | {"options": ["clap", "sit"], "answer": "A", "spans": [[1.0, 3.0], [5.0, 6.0]]},
    "numerical": BLANK | {"answer": "1,250.5"},
    "regression": BLANK | {"answer": "4"},
    "ocr": BLANK | {"answer": "NO ENTRY after dark"},
    "open_ended": BLANK | {"answer": "A red box moves left."},
    "temporal_grounding": BLANK | {"spans": [[5.0, 10.0]]},
    "spatial_grounding": BLANK | {"boxes": [[10.0, 10.0, 30.0, 20.0]]},
    "tracking": BLANK | {"boxes": [[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0]]},
}
SAMPLES = {task: fields | {"task": task} for task, fields in SAMPLES.items()}
MATH = BLANK | {"task": "math", "answer": r"\frac{1}{2}"}


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        *[(text, 0) for text in ("A", "a", "(A)", "(a)", "A.", "A)", " A \n")],
        *[(text, 0) for text in ("No", "no.", "A. No", "(A) No.", "a) no")],
        *[(text, 1) for text in ("B", "B. Yes", "B: yes", "Yes", "YES.")],
        # Neither a first letter nor a letter somewhere counts (peers.md, E4, R13).
        *[(text, None) for text in ("Because it pans", "Both are possible", "A or B", "AB", "clearly B", "Answer: B")],
        *[(text, None) for text in ("A. Yes", "B. No", "(B) A", "No, yes", "C", "ERROR", "", ".", "()", "ª")],
        *[
            (text, 1)
            for text in ("Ｂ", "ｂ", "（B）", "（Ｂ）", "【B】", "B。", "B、Yes", "B：yes。", "Ｂ．Yes", "Ｙｅｓ。")
        ],
        *[(text, None) for text in ("B、No", "Ａ或Ｂ", "是")],
    ],
)
def test_chosen_option(answer, index):
    assert chosen_option(answer, YES_NO) == index


def test_an_option_is_named_by_its_letter_or_its_text():
    assert chosen_option("pan left", ["truck left", "Pan left", "static"]) == 1
    assert chosen_option("C. static", ["truck left", "Pan left", "static"]) == 2


def test_options_that_are_letters_are_named_by_their_place():
    options = ["C", "B", "D", "E", "A"]
    sample = BLANK | {"options": options, "answer": "C", "task": "choice"}
    check_sample(sample)
    for answer in ("C", "c", "(C)", "C.", "C. D", "C) D."):
        assert accuracy(answer, sample) == 1.0
    for answer in ("D", "A. C", "C. C", "E"):
        assert accuracy(answer, sample) == 0.0
    assert chosen_option("G", ["F", "G", "H"]) == 1  # no place has this letter: it is a text


def test_a_full_stop_at_an_options_end_does_not_count():
    assert chosen_option("Ate it.", ["Ate it.", "Left it."]) == 0
    assert chosen_option("Left it", ["Ate it.", "Left it."]) == 1
    assert chosen_option("A. 4.", ["4.", "5."]) == 0
    assert chosen_option("B. 4", ["4.", "5."]) is None


def test_options_and_answers_of_chinese_sets():
    assert [chosen_option(answer, ["不是", "是。"]) for answer in ("是", "是。", "B、是", "B：是", "（B）是")] == [
        1
    ] * 5
    assert chosen_option("A、是", ["不是", "是"]) is None
    assert (number("１２．５"), spans("［１，２．５］"), boxes("［０，０，１，１］", 1)) == (
        12.5,
        [[1, 2.5]],
        [[0, 0, 1, 1]],
    )


@given(st.text(), st.lists(st.text(min_size=1), min_size=2, max_size=30, unique=True))
def test_any_answer_names_one_option_or_none(answer, options):
    chosen = chosen_option(answer, options)
    assert chosen is None or 0 <= chosen < len(options)
    sample = BLANK | {"options": options, "answer": "A", "task": "choice"}
    assert accuracy(answer, sample) == float(chosen == 0)


@given(st.integers(0, 25), st.sampled_from(["{}", "({})", "{}.", "{})", " {} "]))
def test_every_letter_names_its_option(index, form):
    options = [f"option {number}" for number in range(26)]
    letter = chr(ord("A") + index)
    assert chosen_option(form.format(letter), options) == chosen_option(form.format(letter.lower()), options) == index


# ---------------------------------------------------------------- golden values, by hand

GOLDEN = [
    ("binary", "B. Yes", 1.0),
    ("binary", "A", 0.0),
    ("binary", "A then B", 0.0),
    ("quality", "high", 1.0),
    ("numerical", "1250.5", 1.0),
    ("numerical", "1250.504", 1.0),  # equal to two decimals
    ("numerical", "1250.51", 0.0),
    ("numerical", "1250.5 or 3", 0.0),
    ("regression", "4.0", 1.0),
    ("regression", "5", 0.5),  # off by .25: below .50, .45, .40, .35 and .30
    ("regression", "3", 0.5),
    ("regression", "4.1", 1.0),  # off by .025
    ("regression", "6", 0.0),  # off by .5, which is not below .5
    ("ocr", "NO ENTRY after dark", 1.0),
    ("ocr", "NO EXIT after dark", 0.75),  # one of four words
    ("ocr", "NO ENTRY", 0.5),
    ("ocr", "a b c d e f g h i", 0.0),  # more errors than words
    ("open_ended", "a red box moves left", 1.0),
    # Of 5 words 4 agree (F .8), of 4 pairs 2 (F .5), the longest common subsequence has 4 (F .8): mean .7.
    ("open_ended", "a red ball moves left", 0.7),
    ("temporal_grounding", "5 to 10", 1.0),
    ("temporal_grounding", "7.5 to 12.5", 2.5 / 7.5),  # VideoChat-R1, equation 4
    ("temporal_grounding", '{"time": [0, 5]}', 0.0),
    ("temporal_grounding", "10 to 5", 0.0),
    ("spatial_grounding", "[10, 10, 30, 20]", 1.0),
    ("spatial_grounding", '{"boxes": [20, 10, 40, 20]}', 1 / 3),  # 100 of 300
    ("spatial_grounding", "[30, 20, 10, 10]", 0.0),
    ("tracking", "[[0, 0, 2, 2], [1, 1, 3, 3]]", 1.0),
    ("tracking", "[[0, 0, 2, 2], [0, 0, 2, 2]]", (1 + 1 / 7) / 2),
    ("tracking", "[[0, 0, 2, 2]]", 0.0),  # one box for two frames
    ("tracking", '{"boxes": {"1": [0, 0, 2, 2]}}', 0.5),  # over the gold frames, not the answered ones (peers.md, R12)
    ("tracking", '{"boxes": {"1": [0, 0, 2, 2], "2": "lost"}}', 0.5),
]


@pytest.mark.parametrize(("task", "answer", "expected"), GOLDEN)
def test_accuracy(task, answer, expected):
    assert accuracy(answer, SAMPLES[task]) == pytest.approx(expected)


def test_a_single_word_can_be_wholly_right():  # it has no pair that ROUGE-2 could count
    sample = BLANK | {"task": "open_ended", "answer": "left"}
    assert accuracy("Left!", sample) == 1.0 and accuracy("left right", sample) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("gold", "wrong"),
    [
        ("镜头在第3秒后向左移动", ["镜头在第3秒后向右移动", "3", "完全不相关的回答3"]),
        ("镜头做 pan 运动，向左", ["pan", "镜头做 pan 运动，向右"]),
        ("出口 exit", ["exit"]),
        ("камера движется влево на 2 метра", ["камера движется вправо на 2 метра", "2"]),
        ("الكاميرا تتحرك 5", ["5"]),
        ("Die Kamera fährt zurück", ["Die Kamera f hrt zur ck"]),
        ("कैमरा बाएँ जाता है", ["कैमर बए जत ह"]),  # vowel signs are no letters by themselves
        ("กล้องเลื่อนไปทางซ้าย", ["กล้องเลื่อนไปทางขวา"]),
    ],
)
def test_an_open_answer_counts_in_any_script(gold, wrong):
    sample = BLANK | {"task": "open_ended", "answer": gold}
    check_sample(sample)
    assert accuracy(gold.upper() + "。", sample) == 1.0
    assert all(accuracy(answer, sample) < 1.0 for answer in wrong)
    assert all(accuracy(answer, sample) < 0.5 for answer in wrong if len(answer) < 5)
    assert accuracy("🙂 …", sample) == 0.0


@given(st.text("aAbyz019 .,-'_\n", max_size=60), st.booleans())
def test_english_words_are_those_of_rouge_score(text, stemmer):
    assert Words(stemmer).tokenize(text) == DefaultTokenizer(use_stemmer=stemmer).tokenize(text)


def test_the_stemmer_is_a_setting():
    sample = BLANK | {"task": "open_ended", "answer": "a moving box"}
    assert accuracy("a moved boxes", sample) < accuracy("a moved boxes", sample, stemmer=True) == 1.0
    assert 0 <= accuracy("y" * MAX_ANSWER, sample, stemmer=True) < 1  # the Porter stemmer alone overflows


def test_boxes_of_seconds_that_are_left_out_are_found_by_their_numbers():
    gold = [[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 4, 4]]
    sample = BLANK | {"task": "tracking", "boxes": gold, "extras": {"seconds": [1, 2, 4]}}
    said = json.dumps({"boxes": {str(second): box for second, box in zip((1, 2, 4), gold)}})
    assert accuracy(said, sample) == accuracy(json.dumps(gold), sample) == 1.0
    assert accuracy(said.replace('"4"', '"3"'), sample) == pytest.approx(2 / 3)


def test_grounded_qa_is_answer_and_glue():
    sample = SAMPLES["grounded_qa"]  # gold covers 3 s
    assert accuracy("A", sample) == 1.0  # a schema without glue
    assert accuracy("A", sample, "[(1, 3), (5, 6)]") == 1.0
    assert accuracy("B", sample, "[(2, 6)]") == pytest.approx((0 + 2 / 5) / 2)  # 2 s of 5
    assert accuracy("A", sample, "somewhere") == 0.5


def test_mra_at_every_threshold():
    # Relative error e is below 1 - theta for theta in .50, .55, ..., .95.
    for error, share in ((0, 1), (0.04, 1), (0.06, 0.9), (0.12, 0.8), (0.3, 0.4), (0.46, 0.1), (0.5, 0), (9, 0)):
        assert mra(100 * (1 + error), 100) == pytest.approx(share), error
    assert (mra(0, 0), mra(1e-9, 0), mra(-4, 4), mra(-4, -4)) == (1.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1,000", 1000), ("-1,234,567.5", -1234567.5), (" 3. ", 3), (".5", 0.5), ("+2e3", 2000), ("007", 7)],
        *[(text, None) for text in ("", "+", ".", "e5", "1,00", "1_000", "nan", "inf", "1e999", "3 cm", "1 2", "٣")],
    ],
)
def test_number(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *[(text, [[12.5, 17.8]]) for text in ("12.5 to 17.8", "12.5s to 17.8 seconds.", "12.5 - 17.8", "[12.5, 17.8]")],
        *[(text, [[12.5, 17.8]]) for text in ("(12.5, 17.8)", "[(12.5, 17.8)]", '{"time": [12.5, 17.8]}')],
        ("[(5.2, 10.4), [12, 13]]", [[5.2, 10.4], [12.0, 13.0]]),
        ("{'time': (1, 2)}", [[1.0, 2.0]]),
        *[(text, None) for text in ("5 to 2", "3 to 3", "-1 to 4", "[NaN, 3]", "[0, 1e999]", "1 to")],
        *[(text, None) for text in ("", "[]", "{}", "null", "[1]", "[[1, 2], 3]", "[true, 2]", '["1", 2]')],
        *[(text, None) for text in ("[1, 2, 3]", "[[0, Infinity]]")],
        *[(text, None) for text in ('{"time": [1, 2], "time": [3, 4]}', "at 3 to 5", "1.2.3 to 4", "3 to 5 to 7")],
    ],
)
def test_spans(text, found):
    assert spans(text) == found


def test_boxes():
    assert boxes("[0, 0, 1, 1]", 1) == boxes('{"boxes": [[0, 0, 1, 1]]}', 1) == [[0.0, 0.0, 1.0, 1.0]]
    assert boxes('{"boxes": {"2": [0, 0, 1, 1], "9": [0, 0, 1, 1]}}', 2) == [None, [0.0, 0.0, 1.0, 1.0]]
    assert boxes("[[0, 0, 1, 1]]", 2) is boxes("a box", 1) is boxes("[0, 0, 1]", 1) is None
    assert boxes("[[0, 0, 1, 1], [0, 0, 1, NaN]]", 2) is None


def test_intersections():
    assert temporal_iou([0, 4], [2, 6]) == pytest.approx(2 / 6)
    assert temporal_iou([0, 1], [2, 3]) == 0
    # Overlapping spans count once: 0-4 against 1-3 and 5-6.
    assert union_iou([[0, 3], [1, 4]], [[1, 3], [5, 6]]) == pytest.approx(2 / 5)
    assert box_iou([0, 0, 4, 4], [2, 2, 6, 6]) == pytest.approx(4 / 28)
    assert box_iou([-9e307, -9e307, 9e307, 9e307], [0, 0, 1, 1]) == 0
    assert glue_iou("[(1, 3)]", SAMPLES["grounded_qa"]) == pytest.approx(2 / 3)


# ---------------------------------------------------------------- math

EQUAL = [r"\frac{1}{2}", "1/2", "0.5", "$0.5$", r"\boxed{\frac12}", "2/4", "50%"]
DIFFERENT = ["1", "1/2 or 1/3", "1/3, 1/2", "0.5 then 0.6", "", "half", "(", "9^{9^{9^{9}}}", "1/2" * 1000]


def test_math():
    assert {text: accuracy(text, MATH) for text in EQUAL + DIFFERENT} == dict.fromkeys(EQUAL, 1.0) | dict.fromkeys(
        DIFFERENT, 0.0
    )


@pytest.mark.parametrize(
    ("gold", "equal_to", "different"),
    [
        ("8/3", ["2 2/3", "2⅔", "$2 2/3$", r"\boxed{2 2/3}", r"2\frac{2}{3}"], ["4/3", "2"]),
        ("-8/3", ["-2 2/3"], ["-4/3"]),
        ("73", ["**73**", "**$73$**", "**73**."], ["7 * 3", "**37**"]),
        ("1/2^99", ["2^{-99}", "1/2^{99}"], ["1/2^98", "0"]),
        ("(1/2^99, 2)", ["(1/2^99, 2)"], ["(1/2^98, 2)"]),
        ("0.0000001", ["1e-7", "10^{-7}"], ["0.0000002", "0"]),
        ("1000", ["1 000", "1,000"], ["1 001"]),
        ("0", ["0.0"], ["1 000"]),
        ("1/3", ["0.333333"], ["0.333"]),
        ("28%", ["28", "0.28"], ["2.8"]),
        (
            "1/2",
            [r"50\%", r"$50\%$", r"\boxed{50\%}", r"$50\,\%$", "50%", "50 %", "50 percent"],
            ["50", r"5\%", r"0.5\%"],
        ),
        (r"50\%", ["1/2", "0.5", "50%", "50"], ["5", "5%"]),
    ],
)
def test_math_answers_as_people_write_them(gold, equal_to, different):
    assert (
        [text for text in equal_to if not equal(text, gold)] == [text for text in different if equal(text, gold)] == []
    )


def test_math_from_a_thread_and_after_an_endless_answer():
    found = []
    thread = threading.Thread(target=lambda: found.append(equal("3/6", "1/2")))
    thread.start()
    thread.join()
    assert found == [True]


def test_a_gold_answer_that_is_not_mathematics_is_an_error():
    with pytest.raises(TaskError, match="'m7'.*not a mathematical"):
        check_sample(MATH | {"id": "m7", "answer": r"\frac{"})


# ---------------------------------------------------------------- captions


class _Judge:
    def __init__(self, verdicts):
        self.verdicts = verdicts

    async def entailed(self, statements, text):
        return self.verdicts


def test_event_recall():
    sample = BLANK | {"task": "caption", "events": ["a", "b", "c"]}
    assert asyncio.run(event_recall("text", sample, _Judge([True, False, True]))) == pytest.approx(2 / 3)
    assert asyncio.run(event_recall("text", sample, _Judge(UNJUDGED))) is UNJUDGED
    check_sample(sample)
    with pytest.raises(ValueError, match="caption"):
        accuracy("text", sample)


# ---------------------------------------------------------------- any answer, malformed samples

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["time", "boxes", "1", "2"]), inner, max_size=3)
    ),
    max_leaves=12,
)
NUMBERS = st.floats() | st.integers(-(10**400), 10**400)
ANSWERS = st.one_of(
    st.text(),
    st.text("0123456789.,-+eE to[](){}:'\"ABC\n", max_size=40),
    JSON.map(json.dumps),
    st.lists(st.lists(NUMBERS, min_size=2, max_size=4), max_size=3).map(str),
    st.tuples(NUMBERS, NUMBERS).map(lambda pair: f"{pair[0]} to {pair[1]}"),
)


@settings(deadline=None, max_examples=200)
@given(ANSWERS, ANSWERS, st.sampled_from(sorted(SAMPLES)))
def test_any_answer_is_worth_between_0_and_1(answer, glue, task):
    for value in (accuracy(answer, SAMPLES[task]), accuracy(answer, SAMPLES[task], glue)):
        assert isinstance(value, float) and 0.0 <= value <= 1.0


@pytest.mark.parametrize("task", [*SAMPLES, "math"])
@pytest.mark.parametrize("text", ["(", "[", "1", "y", "A ", "[[1,2],", "9" * 100 + " to ", '{"time":'])
def test_a_megabyte_is_worth_nothing(task, text):
    sample = MATH if task == "math" else SAMPLES[task]
    assert accuracy(text * (1_000_000 // len(text)), sample, text * (1_000_000 // len(text))) == 0.0
    # The longest text that is still read, and whose ROUGE-L takes its product with the gold answer.
    assert 0.0 <= accuracy((text * MAX_ANSWER)[:MAX_ANSWER], sample if task != "math" else SAMPLES["ocr"]) < 1.0


@pytest.mark.parametrize("task", sorted(SAMPLES))
def test_a_sample_s_own_answer_is_worth_1(task):
    check_sample(SAMPLES[task])
    assert accuracy(gold_answer(SAMPLES[task]), SAMPLES[task]) == 1.0


@pytest.mark.parametrize(
    ("task", "fields", "reason"),
    [
        ("binary", {"answer": ""}, "not a letter"),
        ("binary", {"answer": "C"}, "not a letter"),
        ("choice", {"answer": "AB"}, "not a letter"),
        ("choice", {"options": ["Pan", "pan "], "answer": "B"}, "worth 0"),  # cannot be told apart by text
        ("numerical", {"answer": "many"}, "not a number"),
        ("regression", {"answer": "nan"}, "not a number"),
        ("ocr", {"answer": " "}, "empty"),
        ("open_ended", {"answer": "…"}, "no word"),
        ("choice", {"options": [f"option {n}" for n in range(27)]}, "27 options, which 26 letters cannot name"),
        ("temporal_grounding", {"spans": []}, "worth 0"),
        ("temporal_grounding", {"spans": [[4.0, 2.0]]}, "worth 0"),
        ("grounded_qa", {"spans": [[1.0, float("nan")]]}, "worth 0.5"),
        ("tracking", {"boxes": []}, "no gold box"),
        ("tracking", {"boxes": [[2.0, 0.0, 0.0, 2.0]]}, "worth 0"),
        ("caption", {"events": []}, "worth 0"),
        ("poem", {}, "no rule"),
    ],
)
def test_a_malformed_sample_is_an_error_that_names_it(task, fields, reason):
    with pytest.raises(TaskError, match=f"'s1'.*{reason}"):
        check_sample(SAMPLES.get(task, BLANK) | {"task": task} | fields)
