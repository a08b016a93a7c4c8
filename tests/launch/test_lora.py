"""Adapters in place of whole weights: what the engines are told, and the whole models that are made of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_tools.rendered import tiny_model
from data_tools.rendered.questions import demo_texts
from launch import merge
from launch.engines import adapters
from launch.engines.llamafactory import config as llamafactory
from launch.engines.verl import config as verl
from launch.errors import LaunchError
from launch.models import require_trained
from launch.recipe import RecipeError
from launch.run import run_of

CLIP = dict(zip(("pixel_values_videos", "video_grid_thw"), (torch.ones(16, 1176), torch.tensor([[1, 4, 4]]))))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The model that adapters are trained on."""
    folder, tokenizer = tmp_path_factory.mktemp("start"), tiny_model.build_tokenizer(demo_texts())
    model = tiny_model.build_model(tokenizer, 0, tiny_model.TinySettings())
    tiny_model.save_model(model, tiny_model.build_processor(tokenizer, 84), folder)
    return folder


def model_in(folder):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def trained(start):
    """Adapters as verl makes them, trained: B is no longer 0."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", exclude_modules=".*visual.*")
    model = get_peft_model(model_in(start), config)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05)
    return model


def log_probabilities(model):
    pad = model.config.video_token_id
    ids = torch.tensor([[5, 6, model.config.vision_start_token_id, *[pad] * 4, 7, 8, 9]])
    kinds = (ids == pad).int() * 2
    with torch.no_grad():
        return model.eval()(input_ids=ids, mm_token_type_ids=kinds, **CLIP).logits.log_softmax(-1)


def verl_checkpoint(model, folder, ranks: int):
    """What each of verl's ranks writes with `save_lora_only` (verl 0.9.1, fsdp_checkpoint_manager.py:320)."""
    weights = {name: weight.detach() for name, weight in model.state_dict().items() if "lora_" in name}
    torch.save(weights, folder.with_name("adapters.pt"))
    side = Path(__file__).with_name("lora_side.py")
    subprocess.run([sys.executable, side, folder.with_name("adapters.pt"), folder, str(ranks)], check=True)
    (folder / "fsdp_config.json").write_text(json.dumps({"world_size": ranks}))
    (folder / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM"}))


@pytest.mark.parametrize("engine, ranks", [("llamafactory", 1), ("verl", 1), ("verl", 3)])
def test_the_merged_model_gives_the_log_probabilities_of_the_adapted_one(start, trained, tmp_path, engine, ranks):
    checkpoint, merged = tmp_path / "checkpoint", tmp_path / "merged"
    checkpoint.mkdir()
    if engine == "verl":
        verl_checkpoint(trained, checkpoint, ranks)
    else:
        trained.save_pretrained(checkpoint)
    adapters.merge(str(start), checkpoint, merged)
    wanted = log_probabilities(trained)
    assert (wanted - log_probabilities(model_in(start))).abs().max() > 0.01
    assert (wanted - log_probabilities(model_in(merged))).abs().max() < 1e-5
    before, after = load_file(start / "model.safetensors"), load_file(merged / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert len(changed) == 7 * 3 and not any("visual" in name for name in changed)
    names = {path.name for path in start.iterdir()}
    assert names == {path.name for path in merged.iterdir()}
    require_trained(merged, str(start))


def test_adapters_of_another_model_are_refused(start, trained, tmp_path):
    trained.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[2:]), tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="holds no adapters of .*: base_model.* and 1 more do not fit"):
        adapters.merge(str(start), tmp_path, tmp_path / "merged")


def test_a_model_that_equals_the_one_it_was_trained_from_is_refused(start, tmp_path):
    weights = {name: weight.bfloat16() for name, weight in load_file(start / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(LaunchError, match="all 68 weights .* are the same: nothing was learnt. The gradient"):
        require_trained(tmp_path, str(start), "The gradient was 0")
    weights[max(weights)] += 1
    save_file(weights, tmp_path / "model.safetensors")
    require_trained(tmp_path, str(start))


def test_rl_without_a_gradient_is_named_as_the_cause(tiny_recipe):
    run = run_of(tiny_recipe("lora=rank64"))
    run.paths.rl.mkdir(parents=True)

    def trained(*norms: float) -> str:
        steps = [{"step": step, "data": {"actor/grad_norm": norm}} for step, norm in enumerate(norms, 1)]
        run.paths.rl_metrics.write_text("".join(json.dumps(step) + "\n" for step in steps))
        return merge.of_gradients(run, 2)

    assert "was 0 in all 2 steps" in trained(0.0, 0.0, 0.3) and "rl.filter.enabled=true" in trained(0.0, 0.0)
    assert "was 0" not in trained(0.0, 1e-9) and str(run.paths.rl_metrics) in trained(1.0, 1.0)


def test_both_engines_train_adapters_of_the_language_model(tiny_recipe):
    run = run_of(tiny_recipe("lora=rank64", "lora.rank=8"))
    sft, model = llamafactory.render(run), verl.render(run, "m", 1).actor_rollout_ref.model
    assert (sft["finetuning_type"], sft["lora_rank"], sft["lora_alpha"], sft["lora_target"]) == ("lora", 8, 128, "all")
    assert sft["freeze_vision_tower"] and sft["freeze_multi_modal_projector"]
    assert (model.lora_rank, model.lora_alpha, model.target_modules) == (8, 128, "all-linear")
    assert model.exclude_modules == ".*visual.*"


def test_named_layers_are_adapted_in_both_engines(tiny_recipe):
    run = run_of(tiny_recipe("lora=rank64", "lora.targets=[q_proj, v_proj]"))
    assert llamafactory.render(run)["lora_target"] == "q_proj,v_proj"
    assert verl.render(run, "m", 1).actor_rollout_ref.model.target_modules == r".*\.(q_proj|v_proj)"
    with pytest.raises(RecipeError, match=r"lora\.targets.*'q_proj', 'k_proj'"):
        tiny_recipe("lora=rank64", "lora.targets=[q_prj]")


def test_adapters_leave_the_vision_tower_frozen(tiny_recipe):
    with pytest.raises(RecipeError, match="lora trains no vision tower"):
        tiny_recipe("lora=rank64", "rl.freeze_vision_tower=false")


def test_gated_delta_layers_get_no_adapters(tiny_recipe):
    with pytest.raises(RecipeError, match="gated delta layers was not tried; take lora=null"):
        tiny_recipe("lora=rank64", "model=tiny_qwen3_5")


def test_later_stages_get_the_whole_models_of_an_sft_with_adapters(tiny_recipe):
    run = run_of(tiny_recipe("lora=rank64", "sft.num_train_epochs=2"))
    for step in (8, 16):
        (run.folder / "sft" / f"checkpoint-{step}").mkdir(parents=True)
    assert run.sft_checkpoint(1) == str(run.folder / "sft" / "merged" / "checkpoint-8")
    assert run.sft_checkpoint(0) == run.base_model
