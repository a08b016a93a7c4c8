"""Rollouts of a prompt meet on one server: which one, what they share there, and that nothing of it is left."""

import asyncio
import random
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from verl.workers.rollout.router import GlobalRequestLoadBalancer, get_router_handle

from launch.engines.patches import verl
from launch.verl_plugin import rollout as rollout_module
from launch.verl_plugin.rollout import AgentLoopWorker, ClipDataset, GroupClient
from launch.verl_plugin.router import Router
from launch.verl_plugin.trainer import ROUTER

SERVERS, PROMPTS, GROUP = 8, 128, 8


def servers(count: int = SERVERS) -> dict[str, str]:
    return {f"server {number}": f"handle {number}" for number in range(count)}


def routed(router, requests: list[tuple[int, int]], names) -> dict[str, list[int]]:
    """Server -> prompt of each request that it got, all of them in flight at once."""
    found = defaultdict(list)
    for prompt, rollout in requests:
        server, handle = router.acquire_server(request_id=names(prompt, rollout))
        assert handle == servers()[server]
        found[server].append(prompt)
    return found


def ours(prompt: int, rollout: int) -> str:
    return f"step000012.{prompt:05d}/{rollout}"


def requests(seed: int) -> list[tuple[int, int]]:
    """In whatever order the rollouts of a step arrive."""
    every = [(prompt, rollout) for prompt in range(PROMPTS) for rollout in range(GROUP)]
    random.Random(seed).shuffle(every)
    return every


def test_a_server_gets_an_eighth_of_the_prompts_whole_and_not_a_rollout_of_each():
    plain = routed(GlobalRequestLoadBalancer(servers()), sorted(requests(0)), lambda *which: f"{which}")
    assert [len(set(prompts)) for prompts in plain.values()] == [PROMPTS] * SERVERS
    found = [routed(Router(servers()), requests(seed), ours) for seed in range(3)]
    for one in found:
        assert [len(set(prompts)) for prompts in one.values()] == [PROMPTS // SERVERS] * SERVERS
        assert all(set(Counter(prompts).values()) == {GROUP} for prompts in one.values())
    first = {server: set(prompts) for server, prompts in found[0].items()}
    assert all({server: set(prompts) for server, prompts in one.items()} == first for one in found)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_servers_are_as_busy_as_each_other_and_keep_nothing(count):
    router = Router(servers(count))
    taken = [router.acquire_server(ours(prompt, rollout))[0] for prompt, rollout in requests(1)]
    busy = router.get_status()["servers"].values()
    assert max(busy) - min(busy) <= GROUP and sum(busy) == len(taken)
    for server in taken:
        router.release_server(server)
    assert router.get_total_inflight() == 0 and not router._request_id_to_server


def test_other_requests_go_where_verl_sends_them():
    router = Router(servers(2))
    assert router.acquire_server("det-1")[0] != router.acquire_server("det-2")[0]
    assert router.acquire_server("det-1")[0] == router.acquire_server("det-1")[0]
    router.remove_servers(list(servers(2)))
    with pytest.raises(RuntimeError, match="No available servers"):
        router.acquire_server(ours(0, 0))


def test_verl_builds_the_router_that_the_trainer_names(monkeypatch):
    class Made:
        def __init__(self, cls):
            self.remote = cls

    monkeypatch.setattr("verl.workers.rollout.router.ray.remote", Made)
    router = get_router_handle(servers(), router_config_path=str(ROUTER))
    assert isinstance(router, Router) and router.acquire_server(ours(9, 0))[0] == "server 1"


def test_a_group_decodes_its_clip_once_asks_once_and_leaves_nothing(monkeypatch):
    decoded, sent, groups, status = [], [], [], []

    async def decode(cls, messages, image_patch_size, config):
        decoded.append(messages)
        await asyncio.sleep(0)
        return None, [(f"frames of {messages}", {})], None

    class Server:
        async def generate(self, prompt_ids, sampling_params, request_id, video_data):
            answer = f"{request_id}: {sampling_params['seed']}, of {video_data[0][0]}"
            return SimpleNamespace(answer=answer, extra_fields={"global_steps": 7})

    server = SimpleNamespace(vLLMHttpServer=Server, TokenOutput=SimpleNamespace)
    verl.one_request_per_prompt(server)

    class Client:
        async def generate(self, request_id, sampling_params, **request):
            sent.append((request_id, sampling_params))
            output = await Server().generate(request_id="vllm", sampling_params=dict(sampling_params), **request)
            output.extra_fields["min_global_steps"] = output.extra_fields["global_steps"]
            return output

    class Loop:
        async def run(self, sampling_params, raw_prompt, session_id, **_):
            _, videos, _ = await ClipDataset.process_multi_modal_info(raw_prompt, 14, OmegaConf.create())
            request = {"sampling_params": sampling_params, "prompt_ids": [1]}
            output = await GroupClient(Client()).generate("verl's", video_data=videos, **request)
            expected = f"vllm-{session_id}: {sampling_params['seed']}, of frames of {raw_prompt}"
            assert output.answer == expected
            assert output.extra_fields == {"global_steps": 7, "min_global_steps": 7}
            groups.append(rollout_module._group.get())
            assert groups[-1]

    async def note(key, partition_id, tag):
        status.append((key, tag["status"]))

    async def ignore(*_, **__):
        pass

    monkeypatch.setattr(ClipDataset.__base__, "process_multi_modal_info", classmethod(decode))
    monkeypatch.setattr("verl.trainer.ppo.v1.agent_loop_tq.tq.async_kv_put", note)
    monkeypatch.setattr(AgentLoopWorker, "_agent_loop_postprocess", ignore)
    worker = AgentLoopWorker.__new__(AgentLoopWorker)
    worker.__dict__["_agent_loop"] = Loop()
    worker.rollout_config = SimpleNamespace(seed=1)
    worker.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"n": GROUP}}})

    async def both() -> None:
        prompts = [{"uid": name, "raw_prompt": name, "agent_name": "clip_agent"} for name in ("a", "b")]
        each = [worker._run_prompt(prompt, {}, trajectory={"validate": False}) for prompt in prompts]
        await asyncio.gather(*map(asyncio.create_task, each))

    asyncio.run(both())
    assert sorted(status) == [(name, what) for name in "ab" for what in ("finished", "running")]
    assert sorted(decoded) == ["a", "b"] and sorted(name for name, _ in sent) == ["a/0", "b/0"]
    assert len({seed for _, params in sent for seed in params["seeds"]}) == 2 * GROUP
    assert len(groups) == 2 * GROUP and not any(groups)
