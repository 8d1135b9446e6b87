"""A worker of vLLM that serves under plans: binds them to the loaded model, proves and replaces them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch

from isogloss.backends.vllm.plugin.effect import observe_layers, require_effect
from isogloss.backends.vllm.plugin.layer import LayerSteering, Observation, bind
from isogloss.backends.vllm.plugin.names import UNSTEERED, require_name
from isogloss.backends.vllm.plugin.record import Recorder
from isogloss.backends.vllm.plugin.refusals import refuse
from isogloss.backends.vllm.plugin.requests import LANGUAGE, PLAN, START
from isogloss.backends.vllm.plugin.routers import ServedRouter, find_served_routers, fingerprint_of
from isogloss.backends.vllm.plugin.settings import ServingSettings, read_serving_settings
from isogloss.backends.vllm.plugin.slots import Slots
from isogloss.backends.vllm.plugin.usage import Counted, Usage
from isogloss.errors import IsoglossError, PlanError
from isogloss.steering import LayerEdit, Plan, check_plan, parse_plan, read_plan

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
        """Run a step, then end what follows it."""
        result = super().execute_model(*args, **kwargs)  # type: ignore[misc]
        if self.isogloss is not None:
            self.isogloss.end_step()
        return result

    def isogloss_status(self) -> dict[str, Any]:
        """Return what is served, as JSON types."""
        return self._steering().status()

    def isogloss_load_plan(self, source: object = None, name: object = "", *more: object) -> dict[str, Any]:
        """Replace one plan, or add it, or remove it.

        Args:
            source: path of a plan on the server's disk, a plan as JSON text, or an empty text for none.
            name: by which requests choose it; "" for the plan of those that name none.
            more: nothing else is taken.

        Returns:
            As `isogloss_status`; or ``error``; all plans then stay as they were.
        """
        return _answered(lambda: self._steering().load_plan(source, name, *more))

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

    def isogloss_usage(self, *reset: object) -> dict[str, Any]:
        """Return how often each expert was chosen, by plan, language and phase.

        Args:
            reset: true where counts are to begin anew after what is returned; nothing else is taken.

        Returns:
            ``model``, ``fingerprint`` and the fields of `Usage.read`; or ``error``. Of a pipeline, each stage has its
            own layers: see `isogloss.backends.vllm.plugin.usage.of_all_stages`.
        """
        return _answered(lambda: self._steering().read_usage(*reset))

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


def _require_nameable(name: str, before: Plan | None, after: Plan | None) -> None:
    """Refuse to load or remove a plan by a name with which no request would be steered."""
    require_name(name)
    if after is None and before is None:
        raise PlanError(f"there is no plan named {name}; nothing was removed")
    if after is not None and not after.interventions:
        raise PlanError(f"the plan has no interventions; requests that name {UNSTEERED} need none")


def _answered(call: Callable[[], _Result]) -> _Result | dict[str, str]:
    """Return what a call returns, or its error, which the caller in another process raises again."""
    try:
        return call()
    except IsoglossError as error:
        return {"error": str(error)}


class _Steering:
    """The plans of one worker, and what they act on."""

    def __init__(self, worker: Any, settings: ServingSettings) -> None:  # noqa: ANN401 - vLLM's own
        self.worker, self.settings = worker, settings
        self.config = worker.vllm_config
        self.routers = find_served_routers(worker.model_runner.get_model())
        self.fingerprint = fingerprint_of(self.config.model_config.hf_text_config.model_type, self.routers)
        self.slots = Slots(apart=settings.apart)
        self.changed: dict[str, dict[str, dict[int, float]]] = {}
        self.device = next(iter(self.routers.values())).weight.device
        self.max_tokens = int(self.config.scheduler_config.max_num_batched_tokens)
        self.token_slots: torch.Tensor | None = None
        if settings.apart:
            self.token_slots = torch.zeros(self.max_tokens, dtype=torch.int64, device=self.device)
        self.layers = {layer: self._bind(router) for layer, router in self.routers.items()}
        self.recorder = Recorder(self.layers, self.device) if settings.record else None
        self.usage: Usage | None = None
        if settings.usage:
            self.usage = Usage(self.layers, n_apart=settings.usage, max_tokens=self.max_tokens, device=self.device)
        if settings.record or settings.apart or settings.usage:
            self._follow_steps()

    def _bind(self, router: ServedRouter) -> LayerSteering:
        fixes, selects = {"force", "ban", "select"} & set(self.settings.kinds), self.settings.selects_everywhere
        model_type = self.config.model_config.hf_text_config.model_type
        steering = LayerSteering(
            router.n_experts,
            kinds=self.settings.kinds,
            n_slots=self.settings.n_rows,
            token_slots=self.token_slots,
            reference=router.reference(model_type, always=selects) if fixes else None,
            fused=self.device.type != "cpu" and not self.config.model_config.enforce_eager,
        ).to(self.device)
        if self.settings.record:
            steering.keep(self.max_tokens, router.top_k, self.device)
        bind(router.runner, steering)
        return steering

    def start(self) -> None:
        """Apply the plans that the engine starts with."""
        self.replace(self.settings.plans, self.settings.plans)
        if self.usage is not None:
            self.usage.prove(self._probe)
        for name, rows in self.changed.items():
            for row, changed in rows.items():
                _log.info(
                    "isogloss: plan %s steers %d layers (%s); it changes the experts of %.1f%% to %.1f%% of random "
                    "tokens",
                    name or self.slots.plans[name].sha256[:12],
                    len(changed),
                    row,
                    *(100 * each(changed.values(), default=0.0) for each in (min, max)),
                )

    def load_plan(self, source: object, name: object, *more: object) -> dict[str, Any]:
        """Replace one plan, see `SteeredWorker.isogloss_load_plan`."""
        if more or not isinstance(source, str) or not isinstance(name, str):
            raise PlanError(
                f"isogloss_load_plan was given {', '.join(type(each).__name__ for each in (source, name, *more))}; "
                'expected one text: the path of a plan, a plan as JSON, or "" for none; and the name of the plan, '
                "where it has one"
            )
        plans = {each: plan for each, plan in self.slots.plans.items() if each != name}
        if source.strip():
            read = parse_plan if source.lstrip().startswith("{") else read_plan
            plans[name] = read(source)
        if name:
            _require_nameable(name, self.slots.plans.get(name), plans.get(name))
        self.replace(plans, [name] if name in plans else [])
        return self.status()

    def replace(self, plans: Mapping[str, Plan], proving: Collection[str]) -> None:
        """Apply other plans, proven on random tokens; if that fails, the previous ones stay active.

        Args:
            plans: all of them, by name.
            proving: names of those that were not applied before.

        Raises:
            PlanError: one is for another model, needs what the engine was not started for, or changes no chosen expert.
            ModelError: a layer cannot be steered.
        """
        before = self.slots, self.changed
        for plan in plans.values():
            check_plan(plan, self.fingerprint)
            self._require_cache(plan)
            self._require_select(plan)
        self.settings.require(plans)
        try:
            self._load(Slots(dict(plans), apart=self.settings.apart), proving)
        except BaseException:
            self.slots, self.changed = before
            self._fill(self.slots)
            raise

    def _require_cache(self, plan: Plan) -> None:
        if plan.by_phase and self.config.cache_config.enable_prefix_caching:
            raise PlanError(
                "the plan edits prompt and generation differently; a prefix cache would hand what was generated under "
                "one edit to prompts under another: start the engine with --no-enable-prefix-caching"
            )

    def _require_select(self, plan: Plan) -> None:
        layers = {each.layer for each in plan.interventions if each.kind == "select"} & set(self.layers)
        if without := sorted(layer for layer in layers if not self.layers[layer].selects):
            raise PlanError(
                f"the plan selects in layers {without}, whose kernels add nothing to what they rank; start the engine "
                "with ISOGLOSS_KINDS=all,select, and experts are chosen outside of them"
            )

    def _load(self, slots: Slots, proving: Collection[str]) -> None:
        edits = self._fill(slots)
        changed = {name: {} if name in proving else self.changed[name] for name in slots.plans}
        for index, row in enumerate(slots.rows):
            if row.plan not in proving or not slots.plans[row.plan].interventions:
                continue
            if self.token_slots is not None:
                self.token_slots.fill_(index)
            own = {layer: rows[index] for layer, rows in edits.items()}
            everywhere = set(own) <= set(self.layers)
            words = slots.words(row)
            changed[row.plan][words] = require_effect(
                self._probe(), own, f"plan {row.plan}, {words}" if row.plan else words, everywhere=everywhere
            )
        if self.token_slots is not None:
            self.token_slots.zero_()
        self.slots, self.changed = slots, changed

    def _probe(self) -> dict[int, Observation]:
        return observe_layers(self.worker, self.layers, [router.block for router in self.routers.values()])

    def observe(self) -> bytes:
        """Return what a probe saw, see `SteeredWorker.isogloss_probe`."""
        arrays: dict[str, torch.Tensor] = {}
        for layer, seen in self._probe().items():
            bias = self.routers[layer].selection_bias
            parts = {"logits": seen.logits, "chosen": None if seen.plain is None else seen.plain.long(), "bias": bias}
            arrays |= {
                f"{layer}.{name}": (array if name == "chosen" else array.float()).detach().cpu().contiguous()
                for name, array in parts.items()
                if array is not None
            }
        return safetensors.torch.save(arrays)

    def _fill(self, slots: Slots) -> dict[int, list[LayerEdit]]:
        edits = {
            layer: slots.edits(layer) for layer in sorted({each for p in slots.plans.values() for each in p.layers})
        }
        for layer, steering in self.layers.items():
            steering.load(edits.get(layer, ()))
        if self.token_slots is not None:
            self.token_slots.zero_()
        return edits

    def status(self) -> dict[str, Any]:
        """Return what is served and what was proven, as JSON types."""
        plans = {name: self._status_of(name, plan) for name, plan in self.slots.plans.items()}
        nameless: dict[str, Any] = {"plan_sha256": None, "languages": [], "phases": [], "changed": {}}
        return {
            **plans.pop("", nameless),
            "plans": plans,
            "fingerprint": self.fingerprint.to_json(),
            "kernels": sorted({router.kernel for router in self.routers.values()}),
            "kinds": list(self.settings.kinds),
            "n_slots": self.settings.n_slots,
            "apart": self.settings.apart,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
        }

    def _status_of(self, name: str, plan: Plan) -> dict[str, Any]:
        changed = {
            row: {str(layer): share for layer, share in shares.items()} for row, shares in self.changed[name].items()
        }
        return {
            "plan_sha256": plan.sha256,
            "languages": list(plan.languages),
            "phases": list(plan.phases),
            "changed": changed,
        }

    def _follow_steps(self) -> None:
        """Read the order of requests in every step, from the one runner whose metadata contains it."""
        runner, parallel = self.worker.model_runner, self.config.parallel_config
        if not hasattr(runner, "_prepare_inputs") or not hasattr(runner, "input_batch"):
            raise PlanError(
                f"{type(runner).__name__} does not tell requests apart before a step; named plans, plans with "
                "conditions on language or phase, and capture need the other one: start with VLLM_USE_V2_MODEL_RUNNER=0"
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
                f"the engine runs with {', '.join(active)}; named plans, plans with conditions on language or phase, "
                "and capture need to know which token of a step is whose: leave that out"
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
        given = zip(extra, batch.num_prompt_tokens[:n], strict=True)
        starts = np.array([each.get(START, n_prompt) for each, n_prompt in given], dtype=np.int64)
        asked = [(each.get(PLAN, ""), each.get(LANGUAGE)) for each in extra]
        if self.token_slots is not None:
            rows = self.slots.of_tokens(asked, starts, first=first, n_tokens=n_tokens)
            self.token_slots[: len(rows)].copy_(torch.from_numpy(rows), non_blocking=True)
        if self.recorder is not None:
            self.recorder.begin(extra, first, n_tokens)
        if self.usage is not None:
            kinds = [Counted(plan or None, self.slots.hashes.get(plan), language) for plan, language in asked]
            requests = [runner.requests[each] for each in ids]
            self.usage.begin(requests, kinds, starts, first=first, n_tokens=n_tokens)

    def end_step(self) -> None:
        """Add up what a step routed where that is recorded, and count nothing of what follows it."""
        if self.recorder is not None:
            self.recorder.end()
        if self.usage is not None:
            self.usage.end()

    def read_usage(self, *reset: object) -> dict[str, Any]:
        """Return what was counted, see `SteeredWorker.isogloss_usage`."""
        if self.usage is None:
            raise PlanError("this engine counts no experts; start it with ISOGLOSS_USAGE=64")
        name = str(self.config.model_config.served_model_name)
        model = Path(name).resolve().name if Path(name).is_dir() else name
        return {"model": model, "fingerprint": self.fingerprint.to_json(), **self.usage.read(*reset)}

    def record(self, items: list[dict[str, Any]] | None) -> bytes:
        """Start or stop recording."""
        if self.recorder is None:
            raise PlanError("this engine keeps no routing; start it with ISOGLOSS_RECORD=1")
        if items is None:
            return self.recorder.stop()
        self.recorder.start(items)
        return b""
