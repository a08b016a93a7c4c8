"""Events of captions, by a language model behind an endpoint."""

import json
from pathlib import Path

import pytest

from data_tools.cli import parse
from data_tools.events import EventsArguments, EventsError, main
from data_tools.sample import Sample, read_samples, write_samples
from data_tools.synthesis.local_server import LocalEndpoint


def captions(path: Path, *texts: str) -> Path:
    fields = {"question": "Describe the video.", "task": "open_ended", "source": "mine", "split": "rl"}
    write_samples(path, [Sample(id=str(n), video=f"{n}.mp4", answer=text, **fields) for n, text in enumerate(texts)])
    return path


def sentences(body: dict) -> str:
    """A stand-in for the model: each sentence that ends in "!" is an event."""
    caption = json.loads(body["messages"][-1]["content"])["caption"]
    return json.dumps({"events": [part.strip() + "!" for part in caption.split("!")[:-1]]})


def run(*arguments: object) -> None:
    main(parse(EventsArguments, [str(argument) for argument in arguments]))


def test_captions_become_events_and_the_same_command_pays_once(tmp_path, capsys):
    given = captions(
        tmp_path / "c.jsonl", "A dog runs! A dog runs! It barks! The sky is blue", "A wall.", "A man waves!"
    )
    keys = [given, f"out={tmp_path / 'e.jsonl'}", "endpoint.model=m", "endpoint.wait=0"]
    with LocalEndpoint(sentences, faults=["500"]) as server:
        run(*keys, f"endpoint.url={server.url}")
        samples = list(read_samples(tmp_path / "e.jsonl"))
        assert [(s.id, s.task, s.events) for s in samples] == [
            ("0", "caption", ["A dog runs!", "It barks!"]),
            ("2", "caption", ["A man waves!"]),
        ]
        assert samples[0].answer.startswith("A dog runs!")  # the SFT baseline's chain
        (left_out,) = [json.loads(line) for line in (tmp_path / "e.quarantine.jsonl").read_text().splitlines()]
        assert left_out["record"] == "1" and "finds none" in left_out["reason"]
        assert "3 captions = 2 in" in capsys.readouterr().err
        run(*keys, f"endpoint.url={server.url}")
        assert "0 requests, 3 from the cache" in capsys.readouterr().err


def test_a_server_that_fails_for_one_caption_costs_that_caption_alone(tmp_path):
    given = captions(tmp_path / "c.jsonl", "A dog runs!", "A man waves!")

    def prose(body: dict) -> str:
        return "A dog!" if "dog" in body["messages"][-1]["content"] else sentences(body)

    with LocalEndpoint(prose) as server:
        keys = [f"endpoint.url={server.url}", "endpoint.model=m", "endpoint.wait=0", "endpoint.attempts=2"]
        run(given, f"out={tmp_path / 'e.jsonl'}", *keys)
    assert [sample.id for sample in read_samples(tmp_path / "e.jsonl")] == ["1"]
    assert "does not fit its schema" in (tmp_path / "e.quarantine.jsonl").read_text()


def test_a_spent_budget_ends_the_command_and_the_same_one_resumes(tmp_path, capsys):
    given = captions(tmp_path / "c.jsonl", *(f"Dog {number} runs!" for number in range(6)))
    keys = [given, f"out={tmp_path / 'e.jsonl'}", "endpoint.model=m", "endpoint.concurrency=2"]
    with LocalEndpoint(sentences) as server:
        with pytest.raises(EventsError, match=r"max_requests 2 .*\n.*the same command resumes"):
            run(*keys, f"endpoint.url={server.url}", "endpoint.max_requests=2")
        assert not (tmp_path / "e.jsonl").exists()
        run(*keys, f"endpoint.url={server.url}")
        assert "6 captions = 6 in" in (said := capsys.readouterr().err)
        assert "4 requests, 2 from the cache" in said and len(server.bodies) == 6


def test_captions_whose_requests_failed_are_asked_again_by_the_same_command(tmp_path, capsys):
    given = captions(tmp_path / "c.jsonl", "A dog runs!", "A man waves!", "A cat sleeps!")
    keys = [given, f"out={tmp_path / 'e.jsonl'}", "endpoint.model=m", "endpoint.wait=0", "endpoint.concurrency=1"]
    with LocalEndpoint(sentences, faults=["", "500"]) as server:
        run(*keys, f"endpoint.url={server.url}", "endpoint.attempts=1")
        assert "3 captions = 2 in" in capsys.readouterr().err
        run(*keys, f"endpoint.url={server.url}", "endpoint.attempts=1")
        assert "3 captions = 3 in" in (said := capsys.readouterr().err) and "1 requests, 2 from the cache" in said
    assert [sample.id for sample in read_samples(tmp_path / "e.jsonl")] == ["0", "1", "2"]
    assert not (tmp_path / "e.quarantine.jsonl").read_text()


def test_a_server_that_has_gone_is_not_asked_for_every_caption(tmp_path):
    given = captions(tmp_path / "c.jsonl", *(f"Dog {number} runs!" for number in range(200)))
    with LocalEndpoint(sentences) as server:
        server.status = 503
        with pytest.raises(EventsError, match="50 captions in a row have failed; the last: .*503"):
            keys = [f"endpoint.url={server.url}", "endpoint.model=m", "endpoint.attempts=1", "endpoint.wait=0"]
            run(given, f"out={tmp_path / 'e.jsonl'}", *keys)
        assert len(server.bodies) < 70
    assert not (tmp_path / "e.jsonl").exists()


def test_captions_without_any_events_are_an_error_that_names_the_reasons(tmp_path):
    with LocalEndpoint(sentences) as server, pytest.raises(EventsError, match="no caption has given events"):
        keys = [f"endpoint.url={server.url}", "endpoint.model=m"]
        run(captions(tmp_path / "c.jsonl", "A wall."), f"out={tmp_path / 'e.jsonl'}", *keys)
    assert "finds none" in (tmp_path / "e.quarantine.jsonl").read_text()


def test_a_server_that_refuses_ends_the_command_and_writes_nothing(tmp_path):
    with LocalEndpoint(sentences) as server:
        server.status = 401
        with pytest.raises(EventsError, match="401"):
            run(
                captions(tmp_path / "c.jsonl", "A dog runs!"),
                f"out={tmp_path / 'e.jsonl'}",
                f"endpoint.url={server.url}",
                "endpoint.model=m",
            )
    assert not (tmp_path / "e.jsonl").exists() and not (tmp_path / "e.quarantine.jsonl").exists()
