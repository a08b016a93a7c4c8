"""The numbers of a plan against transformers' own models, arithmetic by hand, and tensors that are really kept."""

import re

import pytest
import yaml

from launch import estimate, plan
from launch.recipe import ROOT, Architecture, RecipeError

# Parameters in the checkpoints that their authors publish.
PUBLISHED = {
    "qwen2_5_vl_3b": 3_754_622_976,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen2_5_vl_32b": 33_452_718_336,
    "qwen2_5_vl_72b": 73_410_777_344,
    "qwen3_vl_4b": 4_437_815_808,
    "qwen3_vl_8b": 8_767_123_696,
}


def architecture(name: str) -> Architecture:
    return Architecture(**yaml.safe_load((ROOT / "recipes" / "model" / f"{name}.yaml").read_text())["architecture"])


def model_of(a: Architecture):
    """The same model from transformers, without memory for its weights."""
    import torch
    import transformers

    vision = a.vision.model_dump(include={"depth", "hidden_size", "intermediate_size", "num_heads", "patch_size"})
    text = a.model_dump(exclude={"family", "vision", "tie_word_embeddings", "head_dim"})
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision["out_hidden_size"] = a.hidden_size
    if a.family == "qwen3_vl":
        kind = transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration
        text["head_dim"] = a.head_dim
        vision["deepstack_visual_indexes"] = list(range(a.vision.deepstack))
        vision["num_position_embeddings"] = a.vision.positions
    else:
        kind = transformers.Qwen2_5_VLConfig, transformers.Qwen2_5_VLForConditionalGeneration
        half = a.head_dim // 2
        rope["mrope_section"] = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    config = kind[0](
        text_config={**text, "rope_parameters": rope}, vision_config=vision, tie_word_embeddings=a.tie_word_embeddings
    )
    with torch.device("meta"):
        model = kind[1](config)
    model.tie_weights()
    return model


@pytest.mark.parametrize("name", [*PUBLISHED, "tiny"])
def test_parameters_are_those_of_the_real_model(name):
    a = architecture(name)
    model = model_of(a)
    assert estimate.parameters(a) == sum(p.numel() for p in model.parameters())
    assert estimate.vision_parameters(a) == sum(p.numel() for p in model.model.visual.parameters())
    assert estimate.parameters(a) == PUBLISHED.get(name, estimate.parameters(a))


def test_every_model_says_its_architecture():
    for path in (ROOT / "recipes" / "model").glob("*.yaml"):
        assert architecture(path.stem)


def recipe(*overrides: str):
    return plan.compose_recipe(overrides)[0]


def test_states_of_7b_on_eight_gpus_by_hand():
    parts = estimate.training_memory(recipe("experiment=camreasoner"), "rl")
    for what, size in (("weights", 4), ("gradients", 4), ("Adam moments", 8)):  # bytes per parameter, float32
        assert parts[what].likely == pytest.approx(8.292166656 * size / 8)
    kept = estimate.training_memory(recipe("experiment=camreasoner"), "sft")  # its tower is frozen: no moments for it
    assert kept["Adam moments"].likely == pytest.approx((8.292166656 - 0.676550144) * 8 / 8)


def test_offload_takes_the_states_off_the_gpu():
    parts = estimate.training_memory(recipe("experiment=camreasoner", "cluster=one_gpu"), "rl")
    assert not {"weights", "gradients", "Adam moments"} & set(parts)
    host = estimate.host_memory(recipe("experiment=camreasoner", "cluster=one_gpu"))
    assert host["actor"].likely == pytest.approx(8.292166656 * 16)


def test_nodes_share_the_states():
    one, two = (
        estimate.training_memory(recipe("experiment=camreasoner", "cluster=ray_cluster", f"cluster.nodes={n}"), "rl")
        for n in (1, 2)
    )
    assert two["Adam moments"].likely == one["Adam moments"].likely / 2
    assert two["logits"] == one["logits"]  # one row at a time on each GPU, however many


def test_key_value_cache_by_hand():
    r = recipe("experiment=camreasoner")
    assert estimate.kv_bytes_per_token(r) == 2 * 28 * 4 * 128 * 2  # keys and values, layers, heads, width, bfloat16
    cache = estimate.rollout_memory(r)["KV cache"].likely
    assert estimate.concurrent_rollouts(r).likely == pytest.approx(cache * 1e9 / (20480 * 57344))


def test_frames_of_a_step_by_hand():
    # 32 pairs x 334 tokens x 4 patches, 3 x 2 x 14 x 14 values of 4 bytes, 1,024 rollouts
    whole = 32 * 334 * 4 * 1176 * 4 * 1024 / 1e9
    assert estimate.frames_gb(recipe("experiment=camreasoner")).likely == pytest.approx(0.8 * whole)


def test_qwen3s_tokens_are_larger_and_announced():
    # 262,144 pixels are 256 tokens of 32 x 32; each of the 32 pairs is announced by about ten
    assert estimate.visual_tokens(recipe("experiment=camreasoner", "model=qwen3_vl_8b")) == 32 * (256 + 10)


def test_the_demo_fits_where_it_was_measured():
    need = estimate.total(estimate.host_memory(recipe("experiment=demo")).values())
    assert need.low <= 5.9 * 2**30 / 1e9 <= need.high  # measured: docs/demo.md
    seconds = estimate.step_seconds(recipe("experiment=demo"))
    assert seconds.low <= 12 <= seconds.high


def test_activations_are_what_autograd_keeps():
    """The formula of a layer, against the tensors that a real forward pass of the tiny model saves for its backward."""
    import torch

    a = architecture("tiny")
    with torch.random.fork_rng():
        layer = model_of(a).model.language_model.layers[0].to_empty(device="cpu")
    rows, saved = 256, {}

    def keep(tensor):
        if tensor.numel() >= rows * 8 and not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    hidden = torch.randn(1, rows, a.hidden_size, requires_grad=True)
    turn = torch.ones(3, 1, rows, a.head_dim)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(hidden, position_embeddings=(turn, turn))
    measured = sum(size for place, size in saved.items() if place not in own)
    kv = a.num_key_value_heads * a.head_dim
    formula = rows * (10 * a.hidden_size + 2 * kv + 4 * a.intermediate_size) * 4
    low, _, high = estimate.calibration()["memory"]["layer_recompute"]
    assert low * formula <= measured <= high * formula, (measured, formula)


def test_every_calibration_is_a_range_with_a_source():
    def check(node, path):
        if isinstance(node, dict):
            for key, value in node.items():
                check(value, f"{path}.{key}")
        elif isinstance(node, list):
            assert len(node) == 3 and node == sorted(node), path

    text = (ROOT / "launch" / "calibration.yaml").read_text()
    check(yaml.safe_load(text), "")
    for line in text.splitlines():
        if "[" in line.split("#")[0]:
            assert "#" in line, f"no source: {line}"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model=qwen2_5_vl_32b"], "memory per GPU in RL updates.*cluster.nodes higher"),
        (["model=qwen2_5_vl_72b", "cluster=ray_cluster"], "cannot hold one whole rollout.*tensor_parallel_size"),
        (["cluster=laptop_cpu"], "host memory.*model=tiny"),
        (["cluster.disk_gb=100"], "disk for the run folder.*keep_checkpoints"),
        (["rl.rollout.tensor_parallel_size=3"], "must divide the model's 28 attention heads"),
        (["rl.rollout_batch_size=4096"], "host memory per node in RL"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_way_out(overrides, named):
    problems, _ = plan.fits(recipe("experiment=camreasoner", *overrides))
    assert any(re.search(named, problem) for problem in problems), problems


@pytest.mark.parametrize("experiment", ["camreasoner", "videop2r", "videochat_r1"])
@pytest.mark.parametrize("cluster", ["one_gpu", "node_8gpu", "ray_cluster"])
def test_7b_fits_the_clusters(experiment, cluster):
    assert plan.fits(recipe(f"experiment={experiment}", f"cluster={cluster}"))[0] == []


@pytest.mark.parametrize("model", ["qwen2_5_vl_3b", "qwen3_vl_4b", "qwen3_vl_8b"])
def test_other_models_fit_a_node(model):
    assert plan.fits(recipe("experiment=camreasoner", f"model={model}"))[0] == []


def test_several_nodes_of_gpus_need_an_address():
    with pytest.raises(RecipeError, match="cluster.address=auto"):
        recipe("experiment=camreasoner", "cluster.nodes=2")
