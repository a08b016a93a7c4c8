"""A stage that is refused leaves the run folder as it was, whatever the reason."""

import sys
from importlib import import_module

import pytest

from data_tools.media.store import write_manifest
from data_tools.run_folder import SPLITS
from data_tools.sample import Sample, write_samples
from launch.run import Run, run_of, stage

FILES = ["force=true", "data=files", "data.media_root=/nowhere", *(f"data.files.{s}=null" for s in SPLITS)]


def sample(split: str) -> Sample:
    text = {"question": "Does the camera pan?", "options": ["Yes", "No"], "answer": "A", "task": "binary"}
    return Sample(id="a", video="a.mp4", source="s", split=split, **text)


@pytest.fixture
def prepared(tiny_recipe):
    """A run whose stages before training are recorded as done, with one sample per split."""

    def make(*overrides: str) -> Run:
        run = run_of(tiny_recipe(*overrides))
        for name in ("data", "model", "sft", "rl"):
            with stage(run, name):
                pass
        write_manifest(run.data, run.recipe.budget, 1)
        for split in ("rl", "test"):
            write_samples(run.paths.samples(split), [sample(split)])
        return run

    return make


def refusal(monkeypatch, capsys, run: Run, name: str, *overrides: str) -> str:
    """What a stage that ends in an error says; its folder must not have changed."""
    before = contents(run)
    monkeypatch.setattr(sys, "argv", [f"launch.{name}", f"runs={run.recipe.runs}", "reward=camreasoner", *overrides])
    with pytest.raises(SystemExit) as stopped:
        import_module(f"launch.{name}").main()
    assert stopped.value.code == 1 and contents(run) == before
    return capsys.readouterr().err


def contents(run: Run) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(run.folder.rglob("*"))}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("data", ["data.rendered.frames=6", "force=true"], "not the media budget"),
        ("data", [*FILES, "data.files.sft=gone.jsonl"], "data.files.sft: gone.jsonl is missing"),
        ("data", [*FILES, "data.files.rl={{path: '{folder}', source: none}}"], "'none' is not a known source"),
        ("data", [*FILES, "data.files.rl='{folder}'"], "data.media_root: /nowhere is not a folder"),
        ("data", [*FILES, "data.files.rl='{folder}/bad.jsonl'", "data.media_root='{folder}'"], "bad.jsonl:1: "),
        (
            "data",
            [*FILES, "data.files.rl='{folder}/few.jsonl'", "data.media_root='{folder}'"],
            "1 RL prompts do not fill",
        ),
        ("data", ["data.rendered.rl={{clips: 3, binary: 6, choice: 4}}", "force=true"], "10 RL prompts do not fill"),
        (
            "data",
            ["reward.format_weight=7", "force=true"],
            "reward=camreasoner: format_weight 7 would pay wrong answers",
        ),
        (
            "data",
            ["reward.format_weight=abc", "force=true"],
            "reward.format_weight='abc': Input should be a valid number",
        ),
        ("data", ["rl.filter={{enabled: true, metric: acc}}", "force=true"], "rl.filter.metric=acc: the reward"),
        ("model", ["model.warm_up=null", "force=true"], "the tiny model needs model.warm_up"),
        ("model", ["model.path={folder}", "force=true"], "has no config.json"),
        ("data", ["model.path={folder}/qwen", "force=true"], "qwen/config.json has model_type qwen3_vl"),
        ("model", ["model.path={folder}/qwen", "force=true"], "choose model=qwen3_vl_4b or model=qwen3_vl_8b"),
        ("evaluate", ["eval.models={{mine: '{folder}/qwen'}}"], "eval.models.mine: "),
        ("evaluate", ["eval.models={{mine: '{folder}/qwen'}}"], "the recipe's model is qwen2_5_vl"),
        ("rl", ["+ablation=camreasoner_crpo_none", "rl.epochs=1", "rl.twins.turns=[]"], "changes nothing here"),
        ("sft", ["force=true"], "data.files.sft is null"),
        ("sft", ["sft.deepspeed=gone.json", "force=true"], "data.files.sft is null"),
        ("rl", ["rl.start_epoch=0", "force=true"], "do not fill rl.rollout_batch_size"),
        (
            "rl",
            ["judge=endpoint", "judge.url=http://127.0.0.1:9/v1", "judge.model=m", "rl.start_epoch=0", "force=true"],
            "judge=endpoint: http://127.0.0.1:9/v1: Connection error.\n  start it: docs/judge.md",
        ),
        ("merge", [], "has no whole checkpoint"),
        ("evaluate", ["eval.models=[base]"], "is neither a model folder"),
    ],
)
def test_a_refused_stage_leaves_its_folder_untouched(name, overrides, message, prepared, monkeypatch, capsys, tmp_path):
    run = prepared(*[one for one in overrides if one.startswith("rl.start_epoch")])
    (tmp_path / "bad.jsonl").write_text("{}\n")
    write_samples(tmp_path / "few.jsonl", [sample("rl")])
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen/config.json").write_text('{"model_type": "qwen3_vl"}')
    (tmp_path / "qwen/model.safetensors").write_bytes(b"weights")
    given = [one.format(folder=tmp_path) for one in overrides]
    assert message in refusal(monkeypatch, capsys, run, name, *given)
