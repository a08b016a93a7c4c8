"""SFT chains: in the form that the reward reads, with the right answer, and nothing that an engine takes for a clip."""

import pytest
from pydantic import ValidationError

from data_tools.chains import check_chain, turned
from data_tools.prompt import Prompt
from data_tools.sample import FieldError, Sample
from data_tools.tokens import check_text, tokenizer_of

FIELDS = {"id": "1", "video": "a.mp4", "source": "mine", "split": "sft", "question": "Which?"}
BINARY = {"task": "binary", "options": ["No", "Yes"], "answer": "B"}
GROUNDED = {"task": "grounded_qa", "options": ["left", "right"], "answer": "A", "spans": [[2, 4]]}
GOOD = "<observation>It grows.</observation><think>So it zooms.</think><answer>Yes</answer>"


def sample(chain: str | None = GOOD, **fields) -> Sample:
    return Sample(**FIELDS, **(fields or BINARY), chain=chain)


@pytest.mark.parametrize(
    ("chain", "schema", "reason"),
    [
        (GOOD.replace("observation", "see"), "ota", "form ota that the reward reads: missing <observation>"),
        (GOOD, "think_answer", "unexpected <observation>"),
        (GOOD.replace("Yes", "No"), "ota", "its answer is wrong: 'No' is worth 0 as binary"),
        (GOOD.replace("It", "<video> It"), "ota", "holds <video>, which engines replace by a clip"),
        (GOOD.replace("It", "<image>It"), "ota", "holds <image>"),
        (GOOD.replace("</answer>", "<|im_end|></answer>"), "ota", r"special token of chat templates: <\|im_end\|>"),
        (GOOD.replace("It", "<|video_pad|>"), "ota", "special token"),
        ("", "ota", "SFT needs one"),
    ],
)
def test_a_chain_that_teaches_something_else_is_told_with_its_reason(chain, schema, reason):
    with pytest.raises(FieldError, match=reason) as error:
        check_chain(sample(chain), schema)
    assert error.value.field == "chain"


def test_answers_that_are_right_to_a_degree_are_graded_as_the_reward_does():
    span = {"task": "temporal_grounding", "spans": [[2, 4]]}
    check_chain(sample("<think>t</think><answer>2 to 5</answer>", **span), "think_answer")
    with pytest.raises(FieldError, match="'3.5 to 9' is worth 0.071 as temporal_grounding"):
        check_chain(sample("<think>t</think><answer>3.5 to 9</answer>", **span), "think_answer")
    with pytest.raises(FieldError, match="'2 seconds in' is worth 0"):
        check_chain(sample("<think>t</think><answer>2 seconds in</answer>", **span), "think_answer")
    check_chain(sample("<answer>A</answer><glue>[(2, 5)]</glue>", **GROUNDED), "answer_glue")
    with pytest.raises(FieldError, match="its <glue> is wrong: .* IoU of 0"):
        check_chain(sample("<answer>A</answer><glue>soon</glue>", **GROUNDED), "answer_glue")
    check_chain(sample("<think>t</think><answer>x</answer>", task="caption", events=["a door opens"]), "think_answer")


def test_observation_and_thought_become_one_thought():
    chain = turned(sample(), "think_answer", "think_answer").chain
    assert chain == "<think>It grows. So it zooms.</think><answer>Yes</answer>"
    assert turned(sample(chain), "think_answer", "think_answer").chain == chain
    assert turned(sample(), "ota", None).chain == GOOD
    assert turned(sample(), "answer", "answer").chain == "<answer>Yes</answer>"
    with pytest.raises(FieldError, match="has no <observation> to be turned into the form ota"):
        turned(sample(chain), "ota", "ota")
    with pytest.raises(FieldError, match="in none of the forms"):
        turned(sample("It zooms."), "think_answer", "think_answer")
    with pytest.raises(FieldError, match="SFT needs one"):
        turned(sample(None), "ota", None)


@pytest.mark.parametrize(
    ("fields", "schema", "chain"),
    [
        (BINARY, "answer", "<answer>B</answer>"),
        (GROUNDED, "answer_glue", "<answer>A</answer><glue>[[2.0, 4.0]]</glue>"),
        ({"task": "temporal_grounding", "spans": [[1.25, 4]]}, "answer", "<answer>1.25 to 4</answer>"),
        (
            {"task": "temporal_grounding", "spans": [[1, 2], [4, 5]]},
            "answer",
            "<answer>[[1.0, 2.0], [4.0, 5.0]]</answer>",
        ),
        ({"task": "tracking", "boxes": [[0, 0, 1, 1]]}, "answer", "<answer>[[0.0, 0.0, 1.0, 1.0]]</answer>"),
        ({"task": "spatial_grounding", "boxes": [[0, 0, 1, 1]]}, "answer", "<answer>[0.0, 0.0, 1.0, 1.0]</answer>"),
        ({"task": "open_ended", "answer": "a man"}, "answer", "<answer>a man</answer>"),
    ],
)
def test_gold_chains_are_right_in_the_form_without_thoughts(fields, schema, chain):
    made = turned(sample(None, **fields), schema, "gold")
    assert made.chain == chain
    check_chain(made, schema)


def test_a_caption_is_its_own_gold_chain_and_a_grade_is_given_in_words():
    """The SFT baselines of VideoChat-R1's Table 5; a grade's options stand in its question, without letters."""
    caption = sample(None, task="caption", events=["a door opens"], answer="A door opens slowly.")
    assert turned(caption, "answer", "gold").chain == "<answer>A door opens slowly.</answer>"
    grade = sample(None, task="quality", options=["low quality", "high quality"], answer="B")
    chain = turned(grade, "answer", "gold")
    assert chain.chain == "<answer>high quality</answer>"
    check_chain(chain, "answer")


def test_a_caption_known_by_its_events_alone_has_no_gold_chain():
    with pytest.raises(FieldError, match="no gold answer"):
        turned(sample(None, task="caption", events=["a"]), "answer", "gold")


def test_the_tokenizer_s_own_list_says_what_is_special(tmp_path):
    from tokenizers import AddedToken, Tokenizer, models

    fast = Tokenizer(models.BPE())
    fast.add_special_tokens(["<|im_end|>", "<s>"])
    fast.add_tokens([AddedToken("<think>", special=False)])  # Qwen3 has it, and chains need it
    fast.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizer_of(str(tmp_path))
    check_text("question", "What does <|todo|> mean beside <think>?", tokenizer)
    for text in ("a <s> tag", "an <|im_end|>", "a <video>"):
        with pytest.raises(FieldError, match="question: holds .*<"):
            check_text("question", text, tokenizer)
    with pytest.raises(FieldError, match=r"special token of chat templates: <\|todo\|>"):
        check_text("question", "What does <|todo|> mean?")
    assert tokenizer_of("~/nowhere") is tokenizer_of("owner/never-downloaded") is tokenizer_of(None) is None


def test_a_prompt_s_own_texts_hold_no_clip():
    with pytest.raises(ValidationError, match="holds <video>, which engines replace by a clip"):
        Prompt(questions={"default": "<video>{question}"}, instructions={})
