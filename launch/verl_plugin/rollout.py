"""Reproducible rollouts. A prompt's clip is decoded, processed and sent once, with one request for all its rollouts."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.dataset.rl_dataset import RLHFDataset

from launch.engines.patches.verl import OUTPUTS, SEEDS
from launch.verl_plugin.pixels import as_bytes, as_stored, byte_frames

_AGENT = "clip_agent"  # its name in launch/engines/verl/config.yaml
# What the rollouts of a prompt share, their sampling seeds, and which one this is: asyncio gives each task a copy of
# its parent's context
_group: ContextVar[dict[Any, Any] | None] = ContextVar("group", default=None)
_seeds: ContextVar[list[int]] = ContextVar("seeds")
_rollout: ContextVar[tuple[str, int]] = ContextVar("rollout")


async def _once(key: Any, make: Callable[[], Awaitable[Any]]) -> Any:
    """What `make` gives, made once for all rollouts of a prompt."""
    shared = _group.get()
    if shared is None:
        return await make()
    if key not in shared:
        shared[key] = asyncio.ensure_future(make())
    return await asyncio.shield(shared[key])


class ClipDataset(RLHFDataset):
    """verl's data set; a clip is decoded once for all rollouts of a prompt."""

    @classmethod
    async def process_multi_modal_info(cls, messages, image_patch_size, config):
        """Images, videos ((frames, metadata) each) and audios of the messages, decoded once per group."""
        decode = partial(super().process_multi_modal_info, messages, image_patch_size=image_patch_size, config=config)
        return await _once(("media", repr(messages)), decode)

    @classmethod
    def _process_multi_modal_info(cls, messages, image_patch_size, config):
        images, videos, audios = super()._process_multi_modal_info(messages, image_patch_size, config)
        return images, videos and [(byte_frames(frames), facts) for frames, facts in videos], audios


@register(_AGENT)
class ClipAgentLoop(SingleTurnAgentLoop):
    """verl's single turn; a prompt is tokenised once for all its rollouts."""

    async def ct_build_initial_tokens(self, messages, **media):
        """Token ids of the prompt, with the placeholders of the clip expanded."""
        return list(await _once(("ids", repr(messages)), partial(super().ct_build_initial_tokens, messages, **media)))

    @staticmethod
    def build_sglang_video_payload(videos, mm_inputs):
        """Nothing: vLLM takes frames, and verl would store the features a second time, for SGLang (0.9.1)."""


class GroupClient:
    """verl's client; the first rollout of a prompt asks for all of them in one request, with the clip once."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def generate(self, request_id: str, **request: Any) -> Any:
        """verl's own, LLMServerClient.generate."""
        prompt, rollout = _rollout.get()
        outputs: list[Any] = await _once("outputs", partial(self._all, prompt, **request))
        return outputs[rollout]

    async def _all(self, prompt: str, sampling_params: dict[str, Any], **request: Any) -> list[Any]:
        sampling_params = {**sampling_params, SEEDS: _seeds.get()}
        output = await self._client.generate(f"{prompt}/0", sampling_params=sampling_params, **request)
        outputs: list[Any] = output.extra_fields.pop(OUTPUTS)
        for one in outputs:
            one.extra_fields |= output.extra_fields  # the steps of the weights, which verl's client notes
        return outputs


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


# verl decorates its worker with ray.remote; only the undecorated class can be extended.
class AgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """verl's worker, with a sampling seed per rollout; a group shares its frames and the processor's features."""

    async def _run_prompt(self, prompt, sampling_params, trajectory, trace=False):
        shared: dict[Any, Any] = {}
        _group.set(shared)  # verl gives each prompt a task of its own
        rollout = self.config.actor_rollout_ref.rollout
        number = prompt.get("__rollout_n__", rollout.val_kwargs.n if trajectory["validate"] else rollout.n)
        # One seed per (step, prompt, rollout): the same tokens in whatever order requests are served, and after a
        # resume. (verl's own full_determinism gives every rollout of a group the same seed.)
        _seeds.set([_seed(f"{self.rollout_config.seed}/{prompt['uid']}/{index}") for index in range(number)])
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        finally:
            shared.clear()  # the tasks in it refer to it in turn

    async def _run_agent_loop(self, sampling_params, trajectory, *, agent_name, trace=True, **kwargs):
        sampling_params = {**sampling_params, "seed": _seeds.get()[kwargs["session_id"]]}
        if agent_name != _AGENT:  # another, set by the user in `rl.engine`
            settings = {"agent_name": agent_name, "trace": trace}
            return await super()._run_agent_loop(sampling_params, trajectory, **settings, **kwargs)
        _rollout.set((kwargs["uid"], kwargs["session_id"]))
        output = await self._agent_loop.run(sampling_params, **kwargs)
        return await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    @cached_property
    def _shared(self) -> bool:
        return bool(self.config.algorithm.camreasoner.shared_media)

    @cached_property
    def _agent_loop(self) -> ClipAgentLoop:
        """One for all rollouts: it has no state. verl makes one per rollout, through Hydra, in 5 ms each."""
        return ClipAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            data_config=DictConfigWrap(self.config.data),
            server_manager=GroupClient(self.llm_client) if self._shared else self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
        )

    def _compute_multi_modal_inputs(self, output, input_ids):
        media = output.multi_modal_data or {}
        videos, images = media.get("videos") or (), media.get("images") or ()
        if not videos and not images:
            return super()._compute_multi_modal_inputs(output, input_ids)
        # A group shares its frames and images (ClipDataset), so their identity is the key, valid as long as they are
        # kept.
        key = ("features", *(id(frames) for frames, _ in videos), *map(id, images))
        shared = _group.get()
        if shared is None:
            return super()._compute_multi_modal_inputs(output, input_ids)
        if key not in shared:
            features = super()._compute_multi_modal_inputs(output, input_ids)
            if self._shared:
                features = as_bytes(features, self.processor)
            # Token types depend on the text: the caller recomputes them from the ids, and only needs them to be there.
            shared[key] = ((videos, images), features)
        prompt, rollout = _rollout.get(("", 0))
        if prompt and self._shared:
            return as_stored(shared[key][1], f"{prompt}_0_0", first=rollout == 0)
        return dict(shared[key][1])


class AgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with the worker above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(AgentLoopWorker)
