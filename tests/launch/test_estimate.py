"""The numbers of a plan against transformers' own models, arithmetic by hand, and tensors that are really kept."""

import re

import pytest
import yaml

from launch.compose import compose_recipe
from launch.engines.families import Architecture
from launch.planning import fits, memory, ranges, show, sizes, time
from launch.recipe import ROOT, RecipeError

# Parameters in the checkpoints that their authors publish.
PUBLISHED = {
    "qwen2_5_vl_3b": 3_754_622_976,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen2_5_vl_32b": 33_452_718_336,
    "qwen2_5_vl_72b": 73_410_777_344,
    "qwen3_vl_4b": 4_437_815_808,
    "qwen3_vl_8b": 8_767_123_696,
}


def test_sft_over_nodes_is_counted_with_all_of_its_gpus():
    given = ["experiment=camreasoner", "cluster=ray_cluster", "cluster.nodes=4"]
    one, two = (compose_recipe([*given, f"cluster.sft_nodes={nodes}"])[0] for nodes in (1, 2))
    assert [sizes.ranks(recipe, "sft") for recipe in (one, two)] == [8, 16] and sizes.ranks(two, "rl") == 32
    assert (sizes.global_batch_size(one), sizes.global_batch_size(two)) == (16, 32)
    assert sizes.total_steps(one, 1600) == 2 * sizes.total_steps(two, 1600) == 300
    for part in ("weights", "gradients", "Adam moments"):
        of_one, of_two = (memory.training_memory(recipe, "sft")[part].likely for recipe in (one, two))
        assert of_one == pytest.approx(2 * of_two)
    # Twice the chains by twice the GPUs.
    assert time.sft_step_seconds(two).likely == pytest.approx(time.sft_step_seconds(one).likely)
    assert ("SFT batch", "1 x 2 x 16 = 32 chains per step, over 2 nodes") in show.rows(two, [])


def architecture(name: str) -> Architecture:
    return Architecture(**yaml.safe_load((ROOT / "recipes" / "model" / f"{name}.yaml").read_text())["architecture"])


def model_of(a: Architecture):
    """The same model from transformers, without memory for its weights."""
    import torch
    import transformers

    vision = a.vision.model_dump(include={"depth", "hidden_size", "intermediate_size", "num_heads", "patch_size"})
    text = a.model_dump(exclude={"family", "vision", "tie_word_embeddings", "head_dim", "delta"})
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision["out_hidden_size"] = a.hidden_size
    if a.family == "qwen3_vl":
        kind = transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration
        text["head_dim"] = a.head_dim
        vision["deepstack_visual_indexes"] = list(range(a.vision.deepstack))
        vision["num_position_embeddings"] = a.vision.positions
    elif a.family == "qwen3_5":
        kind = transformers.Qwen3_5Config, transformers.Qwen3_5ForConditionalGeneration
        text |= {"head_dim": a.head_dim, "full_attention_interval": a.delta.interval}
        text |= {
            "linear_conv_kernel_dim": a.delta.kernel,
            "linear_key_head_dim": a.delta.key_head_dim,
            "linear_value_head_dim": a.delta.value_head_dim,
            "linear_num_key_heads": a.delta.key_heads,
            "linear_num_value_heads": a.delta.value_heads,
        }
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


@pytest.mark.parametrize("name", [*PUBLISHED, "qwen3_5_9b", "tiny", "tiny_qwen3_vl", "tiny_qwen3_5"])
def test_parameters_are_those_of_the_real_model(name):
    a = architecture(name)
    model = model_of(a)
    assert a.parameters() == sum(p.numel() for p in model.parameters())
    assert a.vision_parameters() == sum(p.numel() for p in model.model.visual.parameters())
    assert a.parameters() == PUBLISHED.get(name, a.parameters())


@pytest.mark.parametrize("name, targets", [("qwen2_5_vl_7b", "all"), ("qwen3_vl_4b", ["q_proj", "down_proj"])])
def test_trained_adapters_are_those_that_peft_adds(name, targets):
    from peft import LoraConfig, get_peft_model

    layers = "all-linear" if targets == "all" else targets
    lora = LoraConfig(r=64, target_modules=layers, exclude_modules=".*visual.*")
    model = get_peft_model(model_of(architecture(name)), lora)
    written = targets if targets == "all" else f"[{','.join(targets)}]"
    asked = recipe("experiment=camreasoner", f"model={name}", "lora=rank64", f"lora.targets={written}")
    assert sizes.trained_parameters(asked, "rl") == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_adapters_need_less_memory_and_disk_and_more_on_the_host():
    whole, adapted = recipe("experiment=camreasoner"), recipe("experiment=camreasoner", "lora=rank64")
    assert memory.training_memory(adapted, "rl")["Adam moments"].likely < 0.02 * 8.292166656
    assert memory.training_memory(adapted, "sft")["weights"].likely == pytest.approx(
        (8.292166656 * 2 + 0.6459) / 8, 0.001
    )
    assert memory.disk(adapted)["RL checkpoints"].likely < memory.disk(whole)["RL checkpoints"].likely / 20
    assert memory.host_memory(adapted)["vLLM asleep"].likely == pytest.approx(8 * 2 * 8.292166656)
    assert time.step_seconds(adapted).likely < time.step_seconds(whole).likely


def test_every_model_says_its_architecture():
    for path in (ROOT / "recipes" / "model").glob("*.yaml"):
        assert architecture(path.stem)


def test_a_family_that_is_not_in_the_table_is_refused():
    with pytest.raises(RecipeError, match="unknown family 'other': choose one of qwen2_5_vl, qwen3_vl, qwen3_5"):
        recipe("experiment=demo", "model.architecture.family=other")


def test_gated_delta_layers_are_those_of_their_family():
    with pytest.raises(RecipeError, match="delta must be set for the family qwen3_5"):
        recipe("experiment=demo", "model=tiny_qwen3_5", "model.architecture.delta=null")


def recipe(*overrides: str):
    return compose_recipe(overrides)[0]


def test_states_of_7b_on_eight_gpus_by_hand():
    parts = memory.training_memory(recipe("experiment=camreasoner"), "rl")
    for what, size in (("weights", 4), ("gradients", 4), ("Adam moments", 8)):  # bytes per parameter, float32
        assert parts[what].likely == pytest.approx(8.292166656 * size / 8)
    kept = memory.training_memory(recipe("experiment=camreasoner"), "sft")  # its tower is frozen: no moments for it
    assert kept["Adam moments"].likely == pytest.approx((8.292166656 - 0.676550144) * 8 / 8)


def test_offload_takes_the_states_off_the_gpu():
    parts = memory.training_memory(recipe("experiment=camreasoner", "cluster=one_gpu"), "rl")
    assert not {"weights", "gradients", "Adam moments"} & set(parts)
    host = memory.host_memory(recipe("experiment=camreasoner", "cluster=one_gpu"))
    assert host["actor"].likely == pytest.approx(8.292166656 * 16)


def test_nodes_share_the_states():
    one, two = (
        memory.training_memory(recipe("experiment=camreasoner", "cluster=ray_cluster", f"cluster.nodes={n}"), "rl")
        for n in (1, 2)
    )
    assert two["Adam moments"].likely == one["Adam moments"].likely / 2
    assert two["logits"] == one["logits"]  # one row at a time on each GPU, however many


def test_key_value_cache_by_hand():
    r = recipe("experiment=camreasoner")
    assert memory.kv_bytes_per_token(r) == 2 * 28 * 4 * 128 * 2  # keys and values, layers, heads, width, bfloat16
    cache = memory.rollout_memory(r)["KV cache"].likely
    assert memory.concurrent_rollouts(r).likely == pytest.approx(cache * 1e9 / (20480 * 57344))


def test_only_layers_that_attend_keep_keys_and_values():
    r = recipe("experiment=camreasoner", "model=qwen3_5_9b")
    assert memory.kv_bytes_per_token(r) == 2 * 8 * 4 * 256 * 2  # 8 of 32 layers


def test_frames_of_a_step_by_hand():
    # 32 pairs x 334 tokens x 4 patches, 3 x 2 x 14 x 14 bytes, or values of 4 bytes for each of eight rollouts
    whole = 32 * 334 * 4 * 1176 * 128 / 1e9
    apart, shared = (recipe("experiment=camreasoner", f"rl.shared_media={shared}") for shared in (False, True))
    assert memory.frames_gb(apart).likely == pytest.approx(2 * 8 * 4 * 0.8 * whole)  # in the queue and in the ranks
    assert memory.frames_gb(shared).likely == pytest.approx(2 * 0.8 * whole)


def test_qwen3s_tokens_are_larger_and_announced():
    # 262,144 pixels are 256 tokens of 32 x 32; each of the 32 pairs is announced by about ten
    assert sizes.visual_tokens(recipe("experiment=camreasoner", "model=qwen3_vl_8b")) == 32 * (256 + 10)


def test_the_demo_fits_where_it_was_measured():
    need = memory.total(memory.host_memory(recipe("experiment=demo")).values())
    assert need.low <= 5.9 * 2**30 / 1e9 <= need.high  # measured: docs/demo.md
    seconds = time.step_seconds(recipe("experiment=demo"))
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
    low, _, high = ranges.calibration()["memory"]["layer_recompute"]
    assert low * formula <= measured <= high * formula, (measured, formula)


def test_every_calibration_is_a_range_with_a_source():
    def check(node, path):
        if isinstance(node, dict):
            for key, value in node.items():
                check(value, f"{path}.{key}")
        elif isinstance(node, list):
            assert len(node) == 3 and node == sorted(node), path

    text = (ROOT / "launch" / "planning" / "calibration.yaml").read_text()
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
        (["rl.rollout_batch_size=4096", "rl.shared_media=false"], "host memory per node in RL"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_way_out(overrides, named):
    problems, _ = fits.fits(recipe("experiment=camreasoner", *overrides))
    assert any(re.search(named, problem) for problem in problems), problems


@pytest.mark.parametrize("experiment", ["camreasoner", "videop2r", "videochat_r1"])
@pytest.mark.parametrize("cluster", ["one_gpu", "node_8gpu", "ray_cluster"])
def test_7b_fits_the_clusters(experiment, cluster):
    assert fits.fits(recipe(f"experiment={experiment}", f"cluster={cluster}"))[0] == []


@pytest.mark.parametrize("model", ["qwen2_5_vl_3b", "qwen3_vl_4b", "qwen3_vl_8b"])
def test_other_models_fit_a_node(model):
    assert fits.fits(recipe("experiment=camreasoner", f"model={model}"))[0] == []


def test_several_nodes_of_gpus_need_an_address():
    with pytest.raises(RecipeError, match="cluster.address=auto"):
        recipe("experiment=camreasoner", "cluster.nodes=2")


# ------------------------------------------------------------------ time


def test_rounds_of_a_filter_are_counted():
    one, filtered = recipe("experiment=camreasoner", "rl.filter.enabled=false"), recipe("experiment=camreasoner")
    assert time.rounds(one).likely == 1 and time.rounds(filtered).likely == 2
    assert time.rounds(recipe("experiment=camreasoner", "rl.filter.max_rounds=2")).high == 2
    before, after = time.step_parts(one), time.step_parts(filtered)
    assert after["prefill"].likely == pytest.approx(2 * before["prefill"].likely)
    assert after["update"] == before["update"]  # on the prompts that are kept


def test_a_group_shares_its_clip_on_one_server_alone():
    """To the least busy of eight servers each of eight rollouts goes alone; with `rl.shared_media` all go to one."""

    def work(servers: int, shared: bool = False) -> ranges.Range:
        cluster = ["cluster=node_8gpu", f"rl.rollout.tensor_parallel_size={8 // servers}"]
        chosen = [f"rl.shared_media={shared}", "model.architecture.num_attention_heads=32"]
        parts = time.step_parts(recipe("experiment=camreasoner", *cluster, *chosen))
        return parts["prefill"]

    one, two, eight = work(1), work(2), work(8)
    assert one.low == pytest.approx(eight.low / 8) and one.likely == pytest.approx(0.6 * eight.likely)
    assert two.low == pytest.approx(eight.low / 4) and one.high == pytest.approx(eight.high)
    assert work(8, shared=True) == one


def test_flash_attention_spares_the_small_kernels():
    assert "small kernels" in time.step_parts(recipe("experiment=camreasoner"))
    given = {"actor_rollout_ref.model.override_config.attn_implementation": "flash_attention_2"}
    sdpa = recipe("experiment=camreasoner")
    flash = sdpa.model_copy(update={"rl": sdpa.rl.model_copy(update={"engine": given})})
    assert "small kernels" not in time.step_parts(flash)


def test_windows_of_a_clip_by_the_models_own_count():
    # 24 windows of a picture of 26 x 12 tokens, 32 pairs of frames, 28 layers with windows and 4 without
    one_by_one = recipe("experiment=camreasoner", "model.batched_windows=false")
    assert time.window_calls(one_by_one) == pytest.approx(28 * 768 + 4 * 32, rel=0.02)
    assert time.window_calls(recipe("experiment=camreasoner")) == 28 * 4 + 4


def test_clips_that_the_agent_loops_keep_are_counted():
    kept = memory.kept_clips_gb(recipe("experiment=camreasoner"))
    clip = 32 * 334 * 4 * 1176 / 1e9  # as features; the decoded frames take as much
    assert kept.likely == pytest.approx(128 * 2 * clip * 0.5)  # of a round: they end with their groups
    assert kept.high == pytest.approx(128 * 2 * clip)
    parts = memory.host_memory(recipe("experiment=camreasoner", "cluster=ray_cluster"))
    assert parts["clips kept"].likely == pytest.approx(kept.likely / 2)


@pytest.mark.parametrize(("minutes", "where"), [(1, 0), (40, 1), (600, None)])
def test_a_step_that_the_watchdog_would_end_is_refused(minutes, where):
    found = fits.fits(recipe("experiment=camreasoner", "cluster=one_gpu", f"cluster.time_limit_minutes={minutes}"))
    told = [number for number, texts in enumerate(found) for text in texts if "cluster.time_limit_minutes=" in text]
    assert told == ([] if where is None else [where])


# ------------------------------------------------------------------ published runs


def published_step(ranks: int, prompts: int, group: int, tokens: int, patches: int, spoken: int) -> time.Step:
    """A step of a 7B with flash-attn and a reference policy's log-probs, as the runs below have them."""
    sized = recipe("experiment=camreasoner")
    seen, row = ranges.as_range(float(patches)), ranges.as_range(float(tokens))
    return time.Step(
        prompts=prompts,
        group=group,
        rounds=ranges.as_range(1.0),
        ranks=ranks,
        servers=ranks,
        spread=ranks,
        forward=time.forward_flops(sized, row, seen),
        trained=time.forward_flops(sized, row, seen),
        tokens=row,
        patches=seen,
        spoken=ranges.as_range(float(spoken)),
        passes=2,
        update=4.0,
        calls=ranges.as_range(0.0),
        loops=False,
        parameters=8_292_166_656,
    )


PUBLISHED_STEPS = {
    "EasyR1, Geometry3K": ("h100", published_step(8, 512, 5, 725, 1500, 350), (120, 145)),
    "EasyR1#392": ("a100", published_step(8, 16, 8, 2200, 4608, 400), (187, 216)),
    "Video-R1#41": ("a100", published_step(8, 8, 8, 1500, 4096, 400), (36, 72)),
}


@pytest.mark.parametrize("name", PUBLISHED_STEPS)
def test_the_plan_page_holds_our_estimate_beside_published_runs(name):
    gpu, step, (fastest, slowest) = PUBLISHED_STEPS[name]
    seconds = sum(step.seconds(ranges.calibration(), gpu).values(), ranges.as_range(0.0))
    assert seconds.low <= slowest and fastest <= seconds.high, seconds
    [row] = [line for line in (ROOT / "docs" / "plan.md").read_text().splitlines() if line.startswith(f"| {name},")]
    assert row.endswith(f"| {fastest}–{slowest} s | {seconds.show('s')} |"), seconds.show("s")
