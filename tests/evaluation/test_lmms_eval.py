"""How lmms-eval's requests reach our model; tests/e2e/test_lmms_eval_installed.py runs lmms-eval itself."""

from types import SimpleNamespace

import pytest
import yaml

from evaluation.lmms_eval import MALFORMED, Client, Keys, client_of, evaluate
from rewards.errors import UserError

CLIP = {"type": "video_url", "video_url": {"url": "file:///clips/a.mp4"}}
# As lmms-eval 0.7.3 sends it (models/chat/openai.py), with pass_video_url.
PAYLOAD = {
    "messages": [{"role": "user", "content": [CLIP, {"type": "text", "text": "Does it zoom?"}]}],
    "model": "m",
    "max_tokens": 16,
    "temperature": 0,
    "extra_body": {"media_io_kwargs": {"video": {"num_frames": 10}}},
}


def server(replies):
    """A chat endpoint that gives these replies in turn and keeps its requests; an exception is raised."""
    sent = []

    def create(**request):
        sent.append(request)
        reply = replies[len(sent) - 1]
        if isinstance(reply, Exception):
            raise reply
        choice = SimpleNamespace(message=SimpleNamespace(content=reply))
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(prompt_tokens=7))

    return sent, create


def test_the_model_is_asked_as_it_was_trained_and_lmms_eval_sees_the_answer_alone():
    good = "<observation>no zoom</observation><think>So.</think><answer>Yes</answer>"
    sent, create = server([good, "Yes, I think", ConnectionError("refused"), None])
    client = Client(create, "ota", "Be brief.", "Explain.", 64)
    ask = client.chat.completions.create
    assert ask(**PAYLOAD).choices[0].message.content == "Yes"
    assert ask(**PAYLOAD).choices[0].message.content == MALFORMED
    with pytest.raises(ConnectionError):
        ask(**PAYLOAD)
    assert ask(**PAYLOAD).choices[0].message.content == MALFORMED
    user = {"role": "user", "content": [CLIP, {"type": "text", "text": "Does it zoom?\nExplain."}]}
    turns = [{"role": "system", "content": "Be brief."}, user]
    assert sent[0] == {"messages": turns, "model": "m", "temperature": 0, "max_tokens": 64}
    assert [record.get("response", "failed") for record in client.records] == [good, "Yes, I think", "failed", None]
    assert Client(create, "ota", "", "", 64).request(PAYLOAD)["messages"] == PAYLOAD["messages"]


def test_a_client_takes_prompt_schema_and_limit_of_its_run(tmp_path):
    prompt = {"system": "Look.", "questions": {"default": "{question}"}}
    prompt["instructions"] = {"think_answer": {"default": "", "numerical": "Give {answer_form}."}}
    recipe = {"prompt": prompt, "eval": {"max_tokens": 9}}
    recipe["reward"] = {"name": "videochat_r1", "prompt": "thinking"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    client = client_of(tmp_path, "choice", print)
    assert (client.schema, client.system, client.max_tokens) == ("think_answer", "Look.", 9)
    assert client.instruction == ""
    assert client_of(tmp_path, "numerical", print).instruction == "Give the number alone, without a unit."
    with pytest.raises(UserError, match="no think_answer_glue.*the task grounded_qa"):
        client_of(tmp_path, "grounded_qa", print)


def test_our_own_environment_is_refused(tmp_path):
    with pytest.raises(UserError, match="its own environment, see --help"):
        evaluate(Keys(tasks="mvbench", run=tmp_path))
