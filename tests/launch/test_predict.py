"""Predictions: every question is answered once or fails with a reason, whatever becomes of the engines."""

import itertools
import json
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.prompt import Form
from data_tools.rendered.questions import demo_texts
from data_tools.rendered.tiny_model import build_tokenizer
from data_tools.sample import Sample, read_samples, write_samples
from launch.compose import compose_recipe
from launch.engines.vllm import main as module
from launch.engines.vllm.answers import failed, run
from launch.engines.vllm.clips import changed
from launch.engines.vllm.job import Job, Questions, answered_ids
from launch.engines.vllm.main import MAX_CONSECUTIVE_FAILURES, EngineFailed, ForkedEngine, predict, window
from launch.engines.vllm.option_scores import (
    before_answer,
    candidates,
    first_token_probabilities,
    option_probabilities,
)
from launch.errors import LaunchError
from launch.evaluate import Asked, control_samples, parts_of, prediction_settings
from launch.models import key_of, model_digest, model_folder, require_context_length
from launch.planning.prompts import check_prompts, form_of_set
from launch.recipe.evaluation import Media
from launch.run import run_of


def sample(name: str, **changes) -> Sample:
    fields = {"video": f"{name}.mp4", "question": "Does the camera pan to the left?", "options": ["No", "Yes"]}
    fields |= {"answer": "B", "task": "binary", "source": "rendered", "split": "test"}
    return Sample(id=name, **fields | changes)


def part(out: Path, control: str | None = None) -> Questions:
    media = Media(fps=2, max_frames=4, min_frames=4, max_pixels=7056, min_pixels=784)
    return Questions(
        samples=out.with_name("q.jsonl"), root=out.parent, media=media, form=Form(), control=control, out=out
    )


def questions(count: int, out: Path) -> list:
    return [(part(out), sample(f"q{number:03d}")) for number in range(count)]


def records(path: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines), "a question was answered twice"
    return {line["id"]: line for line in lines}


class Played:
    """An engine that answers out of order, `window` at a time, and ends when it takes up a deadly question."""

    made, lock = 0, threading.Lock()

    def __init__(self, deadly: set[str]) -> None:
        self._deadly = deadly
        with Played.lock:
            Played.made += 1

    def stream(self, asked, window) -> Iterator:
        for start in range(0, len(asked), window):
            flight = asked[start : start + window]
            if self._deadly & {sample.id for _, sample in flight}:
                raise EngineFailed("the engine crashed (exit code -11)")
            for part_, sample_ in reversed(flight):
                yield part_.out, {"id": sample_.id, "response": "fine", "finish_reason": "stop"}

    def close(self) -> None:
        pass


# ---------------------------------------------------------------- engines that fail


@pytest.mark.parametrize("engines", [1, 3])
def test_a_deadly_question_fails_alone(tmp_path, engines):
    deadly, out, Played.made = {"q005", "q150"}, tmp_path / "out.jsonl", 0
    predict(lambda: Played(deadly), engines, questions(200, out), 64)
    answered = records(out)
    assert len(answered) == 200
    assert {name for name, record in answered.items() if "error" in record} == deadly
    assert answered["q005"] == failed("q005", "the engine crashed (exit code -11) on this question alone")
    assert Played.made <= 2 * 5 + 2 * engines  # in company of 63, of 7, after them, alone


def test_a_failure_that_passes_costs_no_answer(tmp_path):
    out, tries = tmp_path / "out.jsonl", itertools.count()
    predict(lambda: Played({"q003"} if next(tries) < 2 else set()), 1, questions(20, out), 8)
    assert all(record["response"] == "fine" for record in records(out).values()) and len(records(out)) == 20


def test_engines_that_never_answer_are_given_up(tmp_path):
    out, Played.made = tmp_path / "out.jsonl", 0
    everything = {f"q{number:03d}" for number in range(50)}
    with pytest.raises(EngineFailed):
        predict(lambda: Played(everything), 1, questions(50, out), 8)
    assert Played.made == MAX_CONSECUTIVE_FAILURES


def test_controls_go_to_files_of_their_own(tmp_path):
    parts = [part(tmp_path / "a.jsonl"), part(tmp_path / "b.jsonl", "blank")]
    asked = [(each, sample(f"q{number}")) for each in parts for number in range(3)]
    predict(lambda: Played(set()), 1, asked, 2)
    assert set(records(parts[0].out)) == set(records(parts[1].out)) == {"q0", "q1", "q2"}


def test_a_killed_process_is_a_failed_engine(tmp_path, tiny_recipe, monkeypatch):
    """The real fork and its pipe; only what runs in it is short."""

    def answers(engine, recipe, asked, window):
        for part_, sample_ in asked:
            if sample_.id == "q002":
                os.kill(os.getpid(), 9)
            yield part_.out, {"id": sample_.id, "response": engine, "finish_reason": "stop"}

    vllm = ModuleType("vllm")
    vllm.LLM = object
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(module, "answers", answers)
    monkeypatch.setattr(module, "build_engine", lambda recipe, model: model)
    out = tmp_path / "out.jsonl"
    predict(
        lambda: ForkedEngine(tiny_recipe(), "tiny"),
        1,
        questions(5, out),
        2,
    )
    answered = records(out)
    assert answered["q002"]["error"] == "the engine crashed (exit code -9) on this question alone"
    assert {name: record["response"] for name, record in answered.items() if name != "q002"} == {
        name: "tiny" for name in ("q000", "q001", "q003", "q004")
    }


def test_a_truncated_line_is_removed_with_a_warning(tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id": "a", "response": "\xc3\xa9"}\n{"id": "b", "resp\xc3')
    assert answered_ids(path) == {"a"} and "truncated" in capsys.readouterr().err
    assert answered_ids(path) == {"a"} and not capsys.readouterr().err
    assert answered_ids(tmp_path / "none") == set()


def test_a_job_survives_its_file(tiny_recipe, tmp_path):
    parts = [part(tmp_path / "o.jsonl", control) for control in (None, "blank")]
    job = Job(recipe=tiny_recipe(), models={"tiny": parts})
    assert Job.model_validate_json(job.model_dump_json()) == job and job.questions == parts


def test_frames_bound_what_is_in_flight(tiny_recipe, tmp_path):
    recipe, small = tiny_recipe(), part(tmp_path / "o.jsonl")
    assert window(recipe, [small]) == 512
    large = small.model_copy(update={"media": tiny_recipe("media=camreasoner").media})
    assert window(recipe, [small, large]) == 85  # 64 frames of 262,144 pixels: 200 MB


# ---------------------------------------------------------------- requests in flight


class Core:
    """vLLM as `run` drives it: ends requests in reverse."""

    model_config = SimpleNamespace(max_model_len=10)

    def __init__(self) -> None:
        self.llm_engine = self.renderer = self
        self.waiting, self.most = {}, 0

    def render_cmpl(self, prompts):
        return prompts

    def add_request(self, name, prompt, params) -> None:
        assert len(prompt["prompt_token_ids"]) < 10
        assert params.output_kind.name == "FINAL_ONLY"  # so that each output of a step is a whole one
        self.waiting[name] = prompt
        self.most = max(self.most, len(self.waiting))

    def step(self) -> list:
        name, prompt = self.waiting.popitem()
        return [SimpleNamespace(request_id=name, prompt=prompt)]


def test_questions_take_turns_and_keep_their_outputs():
    def steps(name: str, turns: list[int]):
        seen = []
        for length in turns:
            outputs = yield [({"prompt_token_ids": [place] * length}, SimpleNamespace()) for place in range(2)]
            seen += [output.prompt["prompt_token_ids"][0] for output in outputs]
        return {"id": name, "seen": seen}

    core = Core()
    asked = [((part(Path("o.jsonl")), sample(f"q{n}")), steps(f"q{n}", [1 + n % 3] * (n % 4))) for n in range(20)]
    asked.insert(7, ((part(Path("o.jsonl")), sample("long")), steps("long", [1, 10])))
    ends = {record["id"]: record for _, record in run(core, iter(asked), window=3)}
    assert len(ends) == 21 and not core.waiting and core.most == 6
    assert ends.pop("long") == failed("long", "its prompt of 10 tokens leaves no room for an answer in 10")
    assert all(ends[f"q{n}"]["seen"] == [0, 1] * (n % 4) for n in range(20))


# ---------------------------------------------------------------- P(option)


def toy_log_prob(path: tuple[int, ...], token: int) -> float:
    """A language model over 8 tokens whose distribution hangs on all that came before."""
    logits = [
        math.sin(3.7 * (index + 1) * (1 + sum((i + 2) * t for i, t in enumerate(path)))) * 2 for index in range(8)
    ]
    return logits[token] - math.log(sum(map(math.exp, logits)))


def play(steps) -> list[float]:
    """Drive the steps with the toy model."""
    outputs = None
    while True:
        try:
            asked = steps.send(outputs)
        except StopIteration as end:
            return end.value
        outputs = []
        for prompt, params in asked:
            path = tuple(prompt["prompt_token_ids"])
            log_probs = {
                token: SimpleNamespace(logprob=toy_log_prob(path, token)) for token in params.logprob_token_ids
            }
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(logprobs=[log_probs])]))


def prefix_mass(prefix: tuple[int, ...], skip: int) -> float:
    """P(prefix) from position `skip` on, multiplied out."""
    return math.exp(sum(toy_log_prob(prefix[:i], prefix[i]) for i in range(skip, len(prefix))))


def expected(paths: list[tuple[int, tuple[int, ...]]], options: int) -> list[float]:
    """By its definition: for each path, the mass of its shortest prefix that no other option's path shares."""
    shared = len(os.path.commonprefix([path for _, path in paths]))
    mass = [0.0] * options
    counted = set()
    for option, path in paths:
        others = [other for owner, other in paths if owner != option]
        length = next(n for n in range(shared, len(path) + 1) if all(other[:n] != path[:n] for other in others))
        if path[:length] not in counted:
            counted.add(path[:length])
            mass[option] += prefix_mass(path[:length], shared)
    return [share / sum(mass) for share in mass]


END = 7
words = st.lists(st.integers(0, 6), min_size=1, max_size=5).map(tuple)


@settings(deadline=None)  # the first call imports vLLM
@given(st.lists(words, min_size=2, max_size=9, unique=True), st.integers(2, 4))
def test_options_that_share_tokens_get_the_mass_of_their_own_paths(texts, options):
    paths = [(number % options, (1, 2, *text, END)) for number, text in enumerate(texts)]
    options = min(options, len(texts))
    found = play(option_probabilities({"prompt_token_ids": []}, paths, options))
    assert found == pytest.approx(expected(paths, options), rel=1e-9) and sum(found) == pytest.approx(1)


def test_the_first_token_s_probabilities_are_the_model_s_own():
    """P(Yes) and P(No) of one greedy step behind the prompt, not shared out between the two."""
    steps = first_token_probabilities({"prompt_token_ids": [1, 2]}, ["No", "Yes"], lambda text: [len(text), 9])
    ((prompt, params),) = next(steps)
    assert prompt["prompt_token_ids"] == [1, 2] and (params.max_tokens, params.logprob_token_ids) == (1, [2, 3])
    log_probs = {2: SimpleNamespace(logprob=math.log(0.1)), 3: SimpleNamespace(logprob=math.log(0.6))}
    with pytest.raises(StopIteration) as end:
        steps.send([SimpleNamespace(outputs=[SimpleNamespace(logprobs=[log_probs])])])
    assert end.value.value == pytest.approx([0.1, 0.6])


def test_vqascore_asks_as_camerabench_does():
    recipe, _ = compose_recipe(["experiment=camreasoner", "eval=camerabench_vqascore", "eval.models=[base]"])
    check_prompts(recipe)
    form = form_of_set(recipe, "binary_vqascore")
    question = form.messages(sample("1"))[-1]["content"]
    assert question == "<video>Does the camera pan to the left? Please only answer Yes or No."
    media = recipe.eval.sets["binary_vqascore"].media
    assert (media.fps, media.max_pixels) == (8.0, 360 * 420) and recipe.eval.option_scores == "first_token"


def test_refineshot_is_asked_in_its_four_steps():
    recipe, _ = compose_recipe(["experiment=camreasoner", "eval=refineshot", "eval.root=/benchmarks"])
    check_prompts(recipe)
    form = form_of_set(recipe, "refineshot_steps")
    system, user = form.messages(sample("1", options=["Tilt up", "Zoom in"], answer="B", task="choice"))
    assert system["content"].endswith("are enclosed within <think> </think> and <answer> </answer> tags.")
    start = "<video>Question: Does the camera pan to the left?\nOptions:\nA. Tilt up\nB. Zoom in\nPlease answer in the"
    assert user["content"].startswith(start)
    assert "\n<think>\nStep 1: " in user["content"] and form.schema_of("choice") == "think_answer"
    chosen = recipe.eval.sets["refineshot_steps"].media
    assert (chosen.fps, chosen.max_pixels, recipe.eval.max_tokens) == (12.5, 360 * 640, 1024)


def test_letters_texts_and_both_name_an_option():
    def encode(text: str) -> list[int]:
        return list(text.encode())

    forms = {(index, bytes(path).decode()) for index, path in candidates(["B", "pan left"], "<answer>", encode)}
    texts = {(0, "A"), (0, "A. B"), (1, "B"), (1, "pan left"), (1, "B. pan left")}  # "B" is the second option's letter
    assert forms == {(index, f"<answer>{text}</answer>") for index, text in texts}


def test_the_place_of_the_answer_in_the_tokens():
    tokenizer = build_tokenizer(demo_texts())
    text = "<observation>é grows.</observation><think>So.</think><answer>Yes</answer>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    kept, lead = before_answer(SimpleNamespace(text=text, token_ids=ids), tokenizer)
    assert tokenizer.decode(ids[:kept]) + lead == text[: text.index("Yes")] and len(lead) < 20
    for text in ("no tags", "<answer>A</answer><answer>B</answer>"):
        assert before_answer(SimpleNamespace(text=text, token_ids=tokenizer.encode(text)), tokenizer) is None


# ---------------------------------------------------------------- controls and keys


def test_frames_are_changed_as_the_control_says():
    frames = torch.arange(4 * 3 * 2 * 5.0).reshape(4, 3, 2, 5)
    assert not changed(frames, "blank", "v").any() and changed(frames, None, "v") is frames
    assert torch.equal(changed(frames, "mirrored", "v")[..., 0], frames[..., 4])
    assert torch.equal(changed(frames, "reversed", "v")[0], frames[3])
    shuffled = changed(frames, "shuffled_frames", "v")
    assert not torch.equal(shuffled, frames) and torch.equal(shuffled.sort(0).values, frames)


def test_questions_that_a_control_cannot_ask_are_counted(tiny_recipe, capsys):
    run_ = run_of(tiny_recipe("eval.controls=[reversed]"))
    path = run_.paths.samples("test")
    write_samples(path, [sample("a"), sample("b", question="Does the man walk to the left?")])
    files = control_samples(Asked(run_, "test"))
    assert [json.loads(line)["id"] for line in files["reversed"].read_text().splitlines()] == ["a"]
    counts = json.loads(files["reversed"].with_suffix(".json").read_text())
    assert counts == {"questions": 2, "asked": 1, "skipped": {"not about the camera": 1}}
    assert "1 of 2" in capsys.readouterr().out
    write_samples(path, [sample("b", question="Does the man walk to the left?")])
    with pytest.raises(LaunchError, match="fits none"):
        control_samples(Asked(run_, "test"))


def test_twins_are_asked_where_the_answer_changes_greedily_and_old_ones_go(tiny_recipe):
    run_ = run_of(tiny_recipe("eval.twins=[mirrored]", "eval.samples=3"))
    path = run_.paths.samples("test")
    pans = {"question": "Does the camera pan to the left?", "extras": {"motion": "pan_left", "asked": "pan_left"}}
    pans |= {"options": ["No", "Yes"], "answer": "B", "task": "binary"}
    write_samples(path, [sample("a", **pans), sample("b", **pans | {"extras": {}})])
    (plain, _), (name, asked) = parts_of(Asked(run_, "test"))
    assert (plain, name, asked.control, asked.ask) == (None, "mirrored_twin", "mirrored", "greedy")
    (other,) = read_samples(asked.samples)
    assert (other.id, other.question, other.answer_text) == ("a", pans["question"], "No")
    counts = json.loads(asked.samples.with_suffix(".json").read_text())
    assert counts == {"questions": 2, "asked": 1, "skipped": {"no label of the opposite": 1}}
    write_samples(path, [sample("b", **pans | {"extras": {}})])
    assert len(list(parts_of(Asked(run_, "test")))) == 1 and not asked.samples.exists()


def test_responses_longer_than_the_model_has_positions_are_refused(tiny_recipe, tmp_path):
    recipe, config = tiny_recipe("eval.max_tokens=100"), tmp_path / "config.json"
    need = recipe.vllm.max_prompt_length + 100 + 64
    for positions in ({"max_position_embeddings": need - 1}, {"text_config": {"max_position_embeddings": need - 1}}):
        config.write_text(json.dumps(positions))
        with pytest.raises(LaunchError, match=r"eval\.max_tokens=100"):
            require_context_length(recipe, tmp_path)
    config.write_text(json.dumps({"max_position_embeddings": need}))
    require_context_length(recipe, tmp_path)


def test_weights_and_settings_decide_the_key(tiny_recipe, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(LaunchError, match="not a model"):
        model_folder(str(model))
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    before = model_digest(model_folder(str(model)))
    (model / "trainer_state.json").write_text("{}")
    assert model_digest(model) == before
    (model / "model.safetensors").write_bytes(b"weightz")
    assert model_digest(model) != before

    def key(*overrides: str) -> str:
        return key_of(prediction_settings(Asked(run_of(tiny_recipe(*overrides)), "test")))

    assert key() == key("eval.sets.test.limit=3", "rl.learning_rate=1", "cluster.cpus=1")
    different = ("seed=1", "eval.max_tokens=9", "eval.samples=2", "media.max_frames=8", "prompt.system=x")
    assert len({key(), *map(key, different)}) == 1 + len(different)


def test_the_questions_decide_the_file(tmp_path):
    from launch.models import digest

    one, other = tmp_path / "a" / "q.jsonl", tmp_path / "b" / "q.jsonl"
    for path, name in ((one, "a"), (other, "b")):
        path.parent.mkdir()
        write_samples(path, [sample(name)])
    assert digest([one]) != digest([other]) and digest([one]) == digest([one])
