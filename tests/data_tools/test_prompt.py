"""What a prompt asks for: by task, by the schema that the reward reads, and never another form."""

import pytest
from pydantic import ValidationError

from data_tools.prompt import PLAIN, TASKS, Form, Prompt, PromptError, messages, user_text
from data_tools.sample import FieldError, Sample
from launch.compose import read_prompt
from launch.recipe import RECIPES
from rewards.response import SCHEMAS
from rewards.tasks import ANSWER_FORMS, RULES, accuracy

OWN = {"camreasoner": "camreasoner", "videop2r": "videop2r", "videochat_r1": "videochat_r1"}  # prompt -> its reward
FIELDS = {
    "binary": {"options": ["No", "Yes"], "answer": "B"},
    "choice": {"options": ["Pan left", "Zoom in", "Tilt up"], "answer": "C"},
    "numerical": {"answer": "3"},
    "regression": {"answer": "2.5"},
    "ocr": {"answer": "STOP"},
    "open_ended": {"answer": "a man opens a door"},
    "math": {"answer": "1/2"},
    "temporal_grounding": {"spans": [[12.5, 17.8]], "extras": {"event": "a door opens"}},
    "spatial_grounding": {"boxes": [[0, 0, 5, 5]]},
    "tracking": {"boxes": [[0, 0, 5, 5], [1, 0, 6, 5]], "extras": {"object": "ball", "start": [0, 0, 5, 5]}},
    "grounded_qa": {"options": ["left", "right"], "answer": "A", "spans": [[0.5, 2.0]]},
    "caption": {"events": ["a door opens"]},
    "quality": {"options": ["low", "high"], "answer": "A"},
}


def sample(task: str, **changes) -> Sample:
    fields = {"id": "a", "video": "a.mp4", "question": "Which {way}?", "source": "mine", "split": "rl", "task": task}
    return Sample(**{**fields, "duration": 20.0, **FIELDS[task], **changes})


def test_every_task_has_an_example_and_the_words_for_its_answer():
    assert set(FIELDS) == set(TASKS) == set(ANSWER_FORMS)
    assert set(ANSWER_FORMS) >= set(RULES)


def test_the_plain_prompt_is_question_and_options():
    assert PLAIN == read_prompt("plain")
    assert user_text(sample("binary")) == "<video>Which {way}?\nA. No\nB. Yes"
    assert user_text(sample("ocr")) == "<video>Which {way}?"
    assert messages(sample("ocr")) == [{"role": "user", "content": "<video>Which {way}?"}]


def test_placeholders_are_filled_by_the_sample():
    texts = {"default": "{question} ({duration} s) {event}, {answer_form}\n{options}", "ocr": '{"text": {n}}'}
    prompt = PLAIN.model_copy(update={"questions": texts})
    assert user_text(sample("temporal_grounding"), prompt) == (
        "<video>Which {way}? (20 s) a door opens, start and end in seconds, as in 12.5 to 17.8"
    )
    with pytest.raises(FieldError, match=r"extras.event: is missing, and the prompt asks for \{event\}"):
        user_text(sample("binary"), prompt)
    with pytest.raises(FieldError, match="duration: is missing"):
        user_text(sample("temporal_grounding", duration=None), prompt)
    assert user_text(sample("ocr", extras={"n": 7}), prompt) == '<video>{"text": 7}'
    inline = PLAIN.model_copy(update={"questions": {"default": "Choose from {options}."}})
    with pytest.raises(FieldError, match="options: is missing"):
        user_text(sample("ocr"), inline)


def test_the_instruction_follows_the_task_and_the_reward():
    prompt = Prompt(
        questions={"default": "{question}"},
        instructions={
            "think_answer": {
                "default": "<think></think><answer></answer>",
                "ocr": "Read. <think></think><answer></answer>",
            },
            "answer": {"ocr": "<answer></answer>"},
        },
    )
    thinking = Form(prompt=prompt, reward={"name": "videochat_r1"})
    direct = Form(prompt=prompt, reward={"name": "videochat_r1", "prompt": "direct"})
    assert thinking.messages(sample("ocr"))[0]["content"].endswith("?\nRead. <think></think><answer></answer>")
    assert thinking.messages(sample("math"))[0]["content"].endswith("?\n<think></think><answer></answer>")
    assert direct.messages(sample("ocr"))[0]["content"].endswith("?\n<answer></answer>")
    with pytest.raises(PromptError, match="prompt.instructions.answer has no text for the task math"):
        direct.messages(sample("math"))
    with pytest.raises(PromptError, match="prompt.instructions has no answer_glue.*the task grounded_qa"):
        direct.messages(sample("grounded_qa"))


@pytest.mark.parametrize(
    ("instructions", "reason"),
    [
        ({"ota": {"default": "<think> <answer>"}}, "ota.default: does not ask for <observation>"),
        (
            {"answer": {"ocr": "<think> <answer>"}},
            "answer.ocr: asks for <think>, which the schema answer does not have",
        ),
        ({"otta": {"default": ""}}, "'otta' is not a schema"),
        ({"ota": {"ocrr": ""}}, "'ocrr' is not a task"),
    ],
)
def test_an_instruction_names_exactly_the_tags_of_its_schema(instructions, reason):
    with pytest.raises(ValidationError, match=reason):
        Prompt(questions={"default": "{question}"}, instructions=instructions)


def test_a_question_names_no_tags():
    with pytest.raises(ValidationError, match="ocr: names <answer>; tags belong into `instructions`"):
        Prompt(questions={"ocr": "{question} <answer>"}, instructions={})


@pytest.mark.parametrize("name", sorted(path.stem for path in (RECIPES / "prompt").glob("*.yaml")))
def test_every_prompt_is_one(name):
    assert read_prompt(name).instructions


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", OWN)
def test_our_prompts_ask_every_task_for_the_form_that_its_rule_reads(name, task):
    form = Form(prompt=read_prompt(name), reward={"name": OWN[name]})
    text = form.messages(sample(task))[-1]["content"]
    assert all(f"<{tag}>" in text for tag in SCHEMAS[form.schema_of(task)])
    assert ("letter" in text) == bool(FIELDS[task].get("options"))
    assert ANSWER_FORMS[task] in text


def ask(prompt: str, task: str, /, **reward) -> str:
    """The text that follows the clip."""
    form = Form(prompt=read_prompt(prompt), reward=reward)
    return form.messages(sample(task, question="Which way?"))[0]["content"].removeprefix("<video>")


def test_published_texts_are_laid_out_as_the_authors_do():
    text = ask("camreasoner_published", "binary", name="camreasoner")
    assert text.startswith("Which way?\nOptions:\nA. No\nB. Yes\n\nPlease carefully analyze")
    text = ask("videop2r_published", "choice", name="videop2r")
    assert (
        text.startswith("Which way?Options:\nA. Pan left\nB. Zoom in\nC. Tilt up\n\nRespond") and "(e.g., A, B" in text
    )
    text = ask("videop2r_published", "numerical", name="videop2r")
    assert text.startswith("Which way?\nRespond in") and "letter" not in text
    text = ask("videochat_r1_published", "temporal_grounding", name="videochat_r1")
    assert text.startswith('To accurately pinpoint the event "a door opens" in the video, determine the precise time ')
    assert "period of the event.\n\nOutput your thought process within the <think> </think> tags, including" in text
    assert text.endswith('within the <answer> </answer> tags. For example: "12.54 to 17.83".') and "letter" not in text


@pytest.mark.parametrize("task", ["temporal_grounding", "tracking", "grounded_qa", "choice"])
def test_answering_directly_drops_the_thoughts_from_the_published_text(task):
    thinking, direct = (
        ask("videochat_r1_published", task, name="videochat_r1", prompt=p) for p in ("thinking", "direct")
    )
    assert "<think>" in thinking and "<think>" not in direct and "<answer>" in direct
    assert ("<glue>" in direct) == ("<glue>" in thinking) == (task == "grounded_qa")
    assert direct.startswith(thinking.split("\n\n")[0])


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("binary", "B"),
        ("numerical", "3"),
        ("regression", "2.5"),
        ("ocr", "STOP"),
        ("open_ended", "a man opens a door"),
        ("math", "0.5"),
        ("temporal_grounding", "12.5 to 17.8"),
        ("spatial_grounding", "[0, 0, 5, 5]"),
        ("tracking", "[[0, 0, 5, 5], [1, 0, 6, 5]]"),
        ("temporal_grounding", "12.50 to 17.80"),  # the published texts'
        ("tracking", "[[0.0, 0.0, 5.0, 5.0], [1.0, 0.0, 6.0, 5.0]]"),
    ],
)
def test_an_answer_of_the_form_asked_for_is_read(task, said):
    assert accuracy(said, sample(task).model_dump()) == 1


def test_a_prompt_that_is_not_there_is_named():
    from launch.recipe import RecipeError

    with pytest.raises(
        RecipeError, match=r"eval.sets.x.prompt=other: no such file of recipes/prompt; choose one of cam"
    ):
        read_prompt("other", "eval.sets.x.prompt")
