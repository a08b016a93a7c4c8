"""What a job carries and what it must not; what is wrong with a cluster."""

import socket

import pytest

from launch import compose
from launch.cluster import jobs
from launch.engines.environment import engine_env
from launch.engines.ray import nodes
from launch.engines.vllm import main as vllm
from launch.errors import LaunchError
from launch.recipe import ROOT, RecipeError

# ------------------------------------------------------------------ what is sent


def tree(root, **files: str):
    for name in jobs.FOLDERS:
        (root / name).mkdir()
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_code_and_recipes_are_sent_and_nothing_else(tmp_path):
    assert jobs.pack(tmp_path) < 5
    sent = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"launch/rl.py", "recipes/config.yaml", "requirements/gpu.txt", "launch/engines/patches/verl.py"} <= sent
    for path in sent:
        assert path.split("/")[0] in jobs.FOLDERS and not path.endswith((".pyc", ".mp4", ".safetensors"))


def test_weights_links_and_caches_stay_here(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    tree(root, **{"launch/a.py": "", "launch/weights.safetensors": "x", "launch/__pycache__/a.py": "", "runs/b.py": ""})
    (root / "launch" / "link.py").symlink_to(ROOT / "launch" / "rl.py")
    jobs.pack(tmp_path / "sent", root)
    assert [p.name for p in (tmp_path / "sent").rglob("*") if p.is_file()] == ["a.py"]


def test_too_much_is_refused_by_name(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    tree(root, **{"recipes/huge.json": "x" * 11_000_000})
    with pytest.raises(LaunchError, match=r"11 MB, more than 10.*recipes/huge\.json"):
        jobs.pack(tmp_path / "sent", root)


def test_a_secret_is_refused_without_being_shown():
    variables = {"WANDB_API_KEY": "abcdef0123456789", "HOME": "/home/someone", "SHORT_KEY": "a"}
    compose.refuse_secrets([("the command line", "python -m launch.rl runs=/home/someone/a")], variables)
    with pytest.raises(RecipeError, match=r"default\.yaml holds the value of \$WANDB_API_KEY") as caught:
        compose.refuse_secrets([("recipes/local/default.yaml", "key: abcdef0123456789")], variables)
    assert "abcdef" not in str(caught.value)


def test_paths_must_mean_the_same_on_every_node(tiny_recipe):
    recipe = tiny_recipe()
    command = jobs.entrypoint("rl", [f"runs={recipe.runs}", "reward.format_weight=0.3"], recipe, "python")
    assert command.startswith("python -m launch.rl runs=") and command.endswith("cluster.address=auto")
    assert "cluster.address" not in jobs.entrypoint("sft", [], recipe, "python")
    with pytest.raises(LaunchError, match="runs=runs: give an absolute path"):
        jobs.entrypoint("rl", [], tiny_recipe("runs=runs"), "python")
    files = ["data=files", "data.media_root=clips", "data.files={sft: /s, rl: /r, test: /t}"]
    with pytest.raises(LaunchError, match="data.media_root=clips"):
        jobs.entrypoint("rl", [], tiny_recipe(*files), "python")
    published = "{source: camreasoner_rl, path: /rl.json}, {source: camreasoner_rl, path: more.json}"
    files = ["data=files", "data.media_root=/clips", f"data.files={{sft: null, rl: [{published}], test: /t}}"]
    with pytest.raises(LaunchError, match="data.files.rl=more.json: give an absolute path"):
        jobs.entrypoint("rl", [], tiny_recipe(*files), "python")


@pytest.mark.parametrize(
    ("stage", "more", "held"),
    [("rl", [], None), ("evaluate", [], None), ("sft", [], 8), ("sft", ["cluster.sft_nodes=2"], None)],
)
def test_a_job_holds_no_gpus_that_its_stage_asks_the_cluster_for(stage, more, held, monkeypatch):
    """Held twice, they would never be free for the engines."""
    sent = {}
    monkeypatch.setattr(jobs, "client", lambda address: None)
    monkeypatch.setattr(jobs, "_send", lambda client, **given: sent.update(given))
    files = ["data.media_root=/v", "data.files={sft: /s, rl: /r, test: /t}", "runs=/shared/runs"]
    jobs.submit(stage, ["experiment=camreasoner", "cluster=ray_cluster", *files, *more], "http://head:8265")
    assert sent["gpus"] == held and sent["entrypoint"].endswith("cluster.address=auto") == (held is None)


def test_a_wrong_recipe_is_refused_before_anything_is_sent(tmp_path):
    from launch.recipe import RecipeError

    with pytest.raises(RecipeError, match="no_such"):
        jobs.submit("rl", ["rl.no_such=1", f"runs={tmp_path}"], "http://127.0.0.1:1")
    with pytest.raises(RecipeError, match="data.media_root"):
        jobs.submit("rl", ["experiment=camreasoner", f"runs={tmp_path}"], "http://127.0.0.1:1")


def test_a_dashboard_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LaunchError, match=r"no Ray dashboard at http://127\.0\.0\.1:1"):
        jobs.submit("rl", [f"runs={tmp_path}"], "http://127.0.0.1:1")


# ------------------------------------------------------------------ the cluster


def test_an_address_where_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        port = taken.getsockname()[1]
        with pytest.raises(nodes.ClusterError, match=f"127.0.0.1:{port}.*docs/cluster.md"):
            nodes.reach(f"127.0.0.1:{port}")
    with pytest.raises(nodes.ClusterError, match="host:port"):
        nodes.reach("head")


def ray_node(address: str, gpus: int, alive: bool = True) -> dict:
    return {"NodeManagerAddress": address, "Alive": alive, "Resources": {"CPU": 4, "GPU": gpus} if gpus else {"CPU": 4}}


def test_a_cluster_that_is_too_small_is_described():
    cluster = [ray_node("10.0.0.1", 0), ray_node("10.0.0.2", 8), ray_node("10.0.0.3", 8, alive=False)]
    assert nodes.shortage(cluster, 1, 8) is None
    told = nodes.shortage(cluster, 2, 8)
    assert "needs 2 node(s) with 8 GPU(s)" in told and "10.0.0.1: 0, 10.0.0.2: 8" in told and "10.0.0.3" not in told
    assert nodes.shortage([ray_node("a", 8)], 1, 16)


@pytest.fixture
def growing(monkeypatch):
    """growing(clusters): Ray tells of these one after the other, a second each, and of the last one from then on."""
    import ray

    seconds = []
    monkeypatch.setattr(nodes.time, "monotonic", lambda: float(len(seconds)))
    monkeypatch.setattr(nodes.time, "sleep", seconds.append)

    def grow(*clusters):
        monkeypatch.setattr(ray, "nodes", lambda: clusters[min(len(seconds), len(clusters) - 1)])
        return seconds

    return grow


def test_nodes_that_are_still_starting_are_waited_for(growing, capfd):
    head, worker = ray_node("10.0.0.1", 8), ray_node("10.0.0.2", 8)
    waited = growing([head], [head], [head, ray_node("10.0.0.2", 8, alive=False)], [head, worker])
    nodes.await_nodes(2, 8)
    assert len(waited) == 3 and capfd.readouterr().err.count("1 of 2 have joined") == 1


def test_the_node_of_this_machine_is_waited_for_and_what_ray_says_is_told(monkeypatch):
    import ray

    seconds, refused = [], ConnectionError("Failed to connect")
    refused.__cause__ = RuntimeError("No node info found")
    outcomes = [refused, refused, None]

    def init(**_):
        if outcome := outcomes.pop(0) if outcomes else refused:
            raise outcome

    monkeypatch.setattr(nodes.time, "monotonic", lambda: 60.0 * len(seconds))
    monkeypatch.setattr(nodes.time, "sleep", seconds.append)
    monkeypatch.setattr(ray, "init", init)
    nodes._connect("10.0.0.1:6379", {})
    assert len(seconds) == 2
    with pytest.raises(nodes.ClusterError, match=r"10\.0\.0\.1:6379: Failed to connect \(No node info found\)"):
        nodes._connect("10.0.0.1:6379", {})
    assert len(seconds) == 5  # 180 s later
    with pytest.raises(nodes.ClusterError, match="auto"):  # no cluster runs here
        nodes._connect("auto", {})
    assert len(seconds) == 5


def test_nodes_that_do_not_come_are_counted(growing):
    growing([ray_node("10.0.0.1", 0), ray_node("10.0.0.2", 8)])  # a head without GPUs is none of them
    with pytest.raises(
        nodes.ClusterError, match=r"1 of 2 nodes with GPUs joined in 180 s: .* needs 2 .*10\.0\.0\.2: 8"
    ):
        nodes.await_nodes(2, 8)


def test_nodes_with_too_few_gpus_are_refused_at_once(growing):
    waited = growing([ray_node("10.0.0.1", 4), ray_node("10.0.0.2", 4)])
    with pytest.raises(nodes.ClusterError, match="needs 2 node"):
        nodes.await_nodes(2, 8)
    assert not waited


def test_nodes_that_differ_are_named_with_what_differs(tmp_path):
    ours = nodes.facts()
    assert ours["packages"]["verl"] and ours["lock"]
    same = nodes.facts([str(tmp_path)], ["PATH"])
    assert nodes.skew(ours, {"10.0.0.1": same}) == []
    other = {
        **same,
        "lock": "0" * 12,
        "packages": {**ours["packages"], "verl": "0.8.0"},
        "missing": [f"/shared/clips/{number}.mp4" for number in range(3000)],
        "unset": ["JUDGE_API_KEY"],
    }
    told = nodes.skew(ours, {"10.0.0.1": same, "10.0.0.2": other})
    assert len(told) == 4 and all("10.0.0.2" in line for line in told)
    for words in ("lock 000000000000", "verl 0.8.0", "/shared/clips/0.mp4 and 2,999 more", "JUDGE_API_KEY"):
        assert any(words in line for line in told)


def test_facts_hold_no_value_of_the_environment(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "abcdef0123456789")
    told = nodes.facts([], ["JUDGE_API_KEY", "NOT_SET_ANYWHERE"])
    assert told["unset"] == ["NOT_SET_ANYWHERE"] and "abcdef" not in str(told)


def test_what_workers_get_is_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "abcdef0123456789")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setenv("PYTHONPATH", "/code")
    env = nodes.runtime_env({"NCCL_DEBUG": "WARN"})
    assert env["env_vars"]["VERL_PLATFORM"] == "cpu" and env["env_vars"]["PYTHONPATH"] == "/code"
    assert env["env_vars"]["NCCL_DEBUG"] == "WARN"
    assert "abcdef" not in str(env)


def test_evaluations_engines_join_a_cluster_and_get_the_environment_of_engines(tiny_recipe, monkeypatch):
    """Ray's workers have that of their node: without ours vLLM wants nvcc there, and asks the hub."""
    joined = []
    monkeypatch.setattr(vllm, "join", lambda *given: joined.append(given))
    recipe = tiny_recipe("cluster=ray_cluster", "cluster.address=10.0.0.1:6379", "rl.micro_batch_size_per_gpu=1")
    with vllm.engines(recipe, ["/shared/samples.jsonl"]) as (_, count):
        assert count == 16
    assert joined == [("10.0.0.1:6379", 2, 8, ["/shared/samples.jsonl"])]
    for name, value in (env := engine_env(recipe)).items():
        monkeypatch.setenv(name, value)
    forwarded = nodes.runtime_env({})["env_vars"]
    for name in ("VLLM_USE_FLASHINFER_SAMPLER", "PYTHONHASHSEED", "HF_HUB_OFFLINE", "PYTHONPATH", "TRITON_CACHE_DIR"):
        assert forwarded[name] == env[name]
    assert forwarded["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
