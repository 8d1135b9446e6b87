"""A worker of vLLM that serves under a plan: binds it to the loaded model, proves it, and replaces it when asked."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch

from isogloss.backends.vllm.plugin.effect import observe_layers, require_effect
from isogloss.backends.vllm.plugin.layer import LayerSteering, Observation, bind
from isogloss.backends.vllm.plugin.record import Recorder
from isogloss.backends.vllm.plugin.refusals import refuse
from isogloss.backends.vllm.plugin.requests import LANGUAGE, START
from isogloss.backends.vllm.plugin.routers import ServedRouter, find_served_routers, fingerprint_of
from isogloss.backends.vllm.plugin.settings import ServingSettings, read_serving_settings
from isogloss.backends.vllm.plugin.slots import Slots
from isogloss.errors import IsoglossError, PlanError
from isogloss.steering import Plan, check_plan, parse_plan, read_plan

__all__ = ["SteeredWorker"]

_Result = TypeVar("_Result")

_log = logging.getLogger("vllm.isogloss")  # below vLLM's own, so that it is shown as vLLM's messages are


class SteeredWorker:
    """Mixed into the worker class of the platform; methods named ``isogloss_*`` can be called by ``collective_rpc``."""

    isogloss: _Steering | None = None  # where the environment asks for nothing

    def load_model(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - vLLM's own
        """Load the model, then steer it, or fail so that the engine does not start."""
        settings = read_serving_settings()
        worker: Any = self
        if settings is None:
            super().load_model(*args, **kwargs)  # type: ignore[misc]
            return
        try:
            # Graphs depend on what the engine can do, so their cache must tell that apart.
            config = worker.vllm_config
            config.additional_config = {**(config.additional_config or {}), "isogloss": settings.summary}
            _require_no_adapters(config)
            super().load_model(*args, **kwargs)  # type: ignore[misc]
            self.isogloss = _Steering(worker, settings)
            self.isogloss.start()
        except IsoglossError as error:
            refuse(error)

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        """Run a step, then add up what it routed where that is recorded."""
        result = super().execute_model(*args, **kwargs)  # type: ignore[misc]
        if self.isogloss is not None and self.isogloss.recorder is not None:
            self.isogloss.recorder.end()
        return result

    def isogloss_status(self) -> dict[str, Any]:
        """Return what is served, as JSON types."""
        return self._steering().status()

    def isogloss_load_plan(self, source: object = None, *more: object) -> dict[str, Any]:
        """Replace the plan.

        Args:
            source: path of a plan on the server's disk, a plan as JSON text, or an empty text for none.
            more: nothing else is taken.

        Returns:
            As `isogloss_status`; or ``error``; the previous plan then stays active.
        """
        return _answered(lambda: self._steering().load_plan(source, *more))

    def isogloss_probe(self) -> bytes | dict[str, Any]:
        """Return what every router of this process chooses for random hidden states, unsteered.

        Returns:
            A safetensors file: ``LAYER.logits`` ``[n_tokens, n_experts]`` float32, ``LAYER.chosen``
            ``[n_tokens, top_k]`` int64, and ``LAYER.bias`` ``[n_experts]`` float32 where it adds a selection bias.
        """
        return _answered(lambda: self._steering().observe())

    def isogloss_record(self, items: list[dict[str, Any]] | None) -> bytes | dict[str, Any]:
        """Start recording the items named, or stop and return what was recorded; see `record.Recorder`."""
        return _answered(lambda: self._steering().record(items))

    def _steering(self) -> _Steering:
        if self.isogloss is None:
            raise PlanError("this engine was started without isogloss's variables; expected ISOGLOSS_PLAN at least")
        return self.isogloss


def _require_no_adapters(config: Any) -> None:  # noqa: ANN401 - vLLM's own
    if config.lora_config is not None:
        raise PlanError(
            "the engine is to load LoRA adapters (--enable-lora), for which it wraps the routers, so that no plan can "
            "be proven; leave that out, or serve a checkpoint into which the adapter is merged"
        )


def _answered(call: Callable[[], _Result]) -> _Result | dict[str, str]:
    """Return what a call returns, or its error, which the caller in another process raises again."""
    try:
        return call()
    except IsoglossError as error:
        return {"error": str(error)}


class _Steering:
    """The plan of one worker, and what it acts on."""

    def __init__(self, worker: Any, settings: ServingSettings) -> None:  # noqa: ANN401 - vLLM's own
        self.worker, self.settings = worker, settings
        self.config = worker.vllm_config
        self.routers = find_served_routers(worker.model_runner.get_model())
        self.fingerprint = fingerprint_of(self.config.model_config.hf_text_config.model_type, self.routers)
        self.plan: Plan | None = None
        self.slots = Slots()
        self.changed: dict[str, dict[int, float]] = {}
        self.device = next(iter(self.routers.values())).weight.device
        self.max_tokens = int(self.config.scheduler_config.max_num_batched_tokens)
        self.token_slots: torch.Tensor | None = None
        if settings.n_slots > 1:
            self.token_slots = torch.zeros(self.max_tokens, dtype=torch.int64, device=self.device)
        self.layers = {layer: self._bind(router) for layer, router in self.routers.items()}
        self.recorder = Recorder(self.layers, self.device) if settings.record else None
        if settings.record or settings.n_slots > 1:
            self._follow_steps()

    def _bind(self, router: ServedRouter) -> LayerSteering:
        fixes = {"force", "ban"} & set(self.settings.kinds)
        steering = LayerSteering(
            router.n_experts,
            kinds=self.settings.kinds,
            n_slots=self.settings.n_slots,
            token_slots=self.token_slots,
            reference=router.reference() if fixes else None,
            fused=self.device.type != "cpu" and not self.config.model_config.enforce_eager,
        ).to(self.device)
        if self.settings.record:
            steering.keep(self.max_tokens, router.top_k, self.device)
        bind(router.runner, steering)
        return steering

    def start(self) -> None:
        """Apply the plan that the engine starts with."""
        self.replace(self.settings.plan)
        for name, changed in self.changed.items():
            _log.info(
                "isogloss: plan %s steers %d layers (%s); it changes the experts of %.1f%% to %.1f%% of random tokens",
                self.plan.sha256[:12] if self.plan else None,
                len(changed),
                name,
                *(100 * each(changed.values(), default=0.0) for each in (min, max)),
            )

    def load_plan(self, source: object, *more: object) -> dict[str, Any]:
        """Replace the plan, see `SteeredWorker.isogloss_load_plan`."""
        if more or not isinstance(source, str):
            raise PlanError(
                f"isogloss_load_plan was given {', '.join(type(each).__name__ for each in (source, *more))}; expected "
                'one text: the path of a plan, a plan as JSON, or "" for none'
            )
        read = parse_plan if source.lstrip().startswith("{") else read_plan
        self.replace(read(source) if source.strip() else None)
        return self.status()

    def replace(self, plan: Plan | None) -> None:
        """Apply another plan, proven on random tokens; if that fails, the previous plan stays active.

        Raises:
            PlanError: it is for another model, needs what the engine was not started for, or changes no chosen expert.
            ModelError: a layer cannot be steered.
        """
        before = self.plan, self.slots, self.changed
        if plan is not None:
            check_plan(plan, self.fingerprint)
            if any(each.kind == "select" for each in plan.interventions):
                raise PlanError("the plan has interventions of kind select, which vLLM does not apply yet")
            self.settings.require(plan)
            self._require_cache(plan)
        try:
            self._load(plan)
        except BaseException:
            self.plan, self.slots, self.changed = before
            self._fill(self.plan, self.slots)
            raise

    def _require_cache(self, plan: Plan) -> None:
        if plan.by_phase and self.config.cache_config.enable_prefix_caching:
            raise PlanError(
                "the plan edits prompt and generation differently; a prefix cache would hand what was generated under "
                "one edit to prompts under another: start the engine with --no-enable-prefix-caching"
            )

    def _load(self, plan: Plan | None) -> None:
        slots = Slots() if plan is None else Slots.of(plan)
        edits = self._fill(plan, slots)
        changed: dict[str, dict[int, float]] = {}
        for row, name in enumerate(slots.names if plan is not None and plan.interventions else ()):
            if self.token_slots is not None:
                self.token_slots.fill_(row)
            own = {layer: rows[row] for layer, rows in edits.items()}
            everywhere = set(own) <= set(self.layers)
            changed[name] = require_effect(self._probe(), own, name, everywhere=everywhere)
        self.plan, self.slots, self.changed = plan, slots, changed

    def _probe(self) -> dict[int, Observation]:
        return observe_layers(self.worker, self.layers, [router.block for router in self.routers.values()])

    def observe(self) -> bytes:
        """Return what a probe saw, see `SteeredWorker.isogloss_probe`."""
        arrays: dict[str, torch.Tensor] = {}
        for layer, seen in self._probe().items():
            bias = getattr(self.routers[layer].runner.router, "e_score_correction_bias", None)
            parts = {"logits": seen.logits, "chosen": None if seen.plain is None else seen.plain.long(), "bias": bias}
            arrays |= {
                f"{layer}.{name}": (array if name == "chosen" else array.float()).detach().cpu().contiguous()
                for name, array in parts.items()
                if array is not None
            }
        return safetensors.torch.save(arrays)

    def _fill(self, plan: Plan | None, slots: Slots) -> dict[int, Any]:
        edits = {} if plan is None else {layer: slots.edits(plan, layer) for layer in plan.layers}
        for layer, steering in self.layers.items():
            steering.load(edits.get(layer, ()))
        if self.token_slots is not None:
            self.token_slots.zero_()
        return edits

    def status(self) -> dict[str, Any]:
        """Return what is served and what was proven, as JSON types."""
        changed = {
            name: {str(layer): share for layer, share in shares.items()} for name, shares in self.changed.items()
        }
        return {
            "plan_sha256": None if self.plan is None else self.plan.sha256,
            "languages": list(self.slots.languages),
            "phases": [] if self.plan is None else list(self.plan.phases),
            "fingerprint": self.fingerprint.to_json(),
            "kernels": sorted({router.kernel for router in self.routers.values()}),
            "kinds": list(self.settings.kinds),
            "n_slots": self.settings.n_slots,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "changed": changed,
        }

    def _follow_steps(self) -> None:
        """Read the order of requests in every step, from the one runner whose metadata contains it."""
        runner, parallel = self.worker.model_runner, self.config.parallel_config
        if not hasattr(runner, "_prepare_inputs") or not hasattr(runner, "input_batch"):
            raise PlanError(
                f"{type(runner).__name__} does not tell requests apart before a step; plans with conditions on "
                "language or phase, and capture, need the other one: start with VLLM_USE_V2_MODEL_RUNNER=0"
            )
        unfit = {
            "data parallel": parallel.data_parallel_size > 1,
            "speculative decoding": self.config.speculative_config is not None,
            "micro-batches": getattr(parallel, "use_ubatching", False),
            "context parallel prefill": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
            "sequence parallel experts": any(
                getattr(router.runner.moe_config, "is_sequence_parallel", False) for router in self.routers.values()
            ),
        }
        if active := [name for name, is_active in unfit.items() if is_active]:
            raise PlanError(
                f"the engine runs with {', '.join(active)}; plans with conditions on language or phase, and capture, "
                "need to know which token of a step is whose: leave that out"
            )
        prepare = runner._prepare_inputs  # noqa: SLF001 - see above

        @functools.wraps(prepare)
        def follow(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
            result = prepare(*args, **kwargs)
            self._begin_step(runner)
            return result

        runner._prepare_inputs = follow  # noqa: SLF001 - see above

    def _begin_step(self, runner: Any) -> None:  # noqa: ANN401 - vLLM's own
        """Note for every token of a step which row edits it, and of which item it is."""
        batch = runner.input_batch
        n, ids = batch.num_reqs, batch.req_ids[: batch.num_reqs]
        first = batch.num_computed_tokens_cpu[:n].astype(np.int64)
        ends = runner.query_start_loc.np[: n + 1].astype(np.int64)
        n_tokens = np.diff(ends)
        extra = [getattr(runner.requests[each].sampling_params, "extra_args", None) or {} for each in ids]
        if self.token_slots is not None:
            starts = [each.get(START, given) for each, given in zip(extra, batch.num_prompt_tokens[:n], strict=True)]
            languages = [each.get(LANGUAGE) for each in extra]
            rows = self.slots.rows(languages, np.array(starts, dtype=np.int64), first=first, n_tokens=n_tokens)
            self.token_slots[: len(rows)].copy_(torch.from_numpy(rows), non_blocking=True)
        if self.recorder is not None:
            self.recorder.begin(extra, first, n_tokens)

    def record(self, items: list[dict[str, Any]] | None) -> bytes:
        """Start or stop recording."""
        if self.recorder is None:
            raise PlanError("this engine keeps no routing; start it with ISOGLOSS_RECORD=1")
        if items is None:
            return self.recorder.stop()
        self.recorder.start(items)
        return b""
