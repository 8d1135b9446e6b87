"""The loss that aligns routing: exact in every family, the same however a step is divided, never lost unseen."""

from __future__ import annotations

import copy
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import central_difference, in_double, in_float64
from models import FAMILIES, FEW, ITEM_IDS, REPRESENTATIVES, TEXTS, each_family, tiny
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from transformers import Trainer, TrainingArguments

from isogloss.analysis import divergence
from isogloss.backends.huggingface.losses import divergences
from isogloss.errors import ModelError, RunError
from isogloss.learning import PairCollator, RoutingAlignment, trainable
from isogloss.learning.paired_batches import COUNTED, PAIR, PIVOT_PROFILES

EXAMPLES = (
    {"text": TEXTS[2], "pivot": TEXTS[0], "item": ITEM_IDS[0]},
    {"text": TEXTS[3], "pivot": TEXTS[1], "item": ITEM_IDS[1]},
    {"text": TEXTS[4], "pivot": TEXTS[5], "item": ITEM_IDS[5]},
)
ALL = {"layers": "all", "coefficient": 3.0}


def batch_of(loaded, examples=EXAMPLES, **options):
    """A padded batch of pairs."""
    return PairCollator(tokenizer=loaded.tokenizer, **options)(examples)


def total(alignment, model, batch, n_items=None):
    """The loss of a forward, as a trainer asks for it."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return alignment(model(**inputs), batch["labels"], num_items_in_batch=n_items)


def gradients(model):
    """Gradients by parameter, and none left."""
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def backward(loaded, batch, *, model=None, **options):
    """The loss and its gradients."""
    torch.manual_seed(0)  # phimoe draws in training mode
    with RoutingAlignment(loaded.model, **{**ALL, **options}) as alignment:
        loss = total(alignment, model or loaded.model, batch)
        loss.backward()
    return loss.item(), gradients(loaded.model)


def assert_close(one, other, **tolerance):
    """Two sets of gradients agree."""
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# The formulas.


def shares(seed, *shape):
    """Random distributions over experts, some of whose shares are 0."""
    drawn = np.random.default_rng(seed).dirichlet(np.full(8, 0.5), shape)
    drawn[..., 3] = 0
    return drawn / drawn.sum(-1, keepdims=True)


def test_divergences_are_those_of_the_analysis_and_of_scipy():
    """Three formulas, each with an oracle in NumPy."""
    p, q = shares(0, 5, 4), shares(1, 5, 4)
    found = {name: divergences(torch.tensor(p), torch.tensor(q), name).numpy() for name in ("hjs", "js", "kl")}
    np.testing.assert_allclose(found["hjs"], divergence(p, q), rtol=1e-9)
    np.testing.assert_allclose(found["js"], jensenshannon(p, q, axis=-1) ** 2, rtol=1e-9)
    np.testing.assert_allclose(found["kl"], rel_entr(q, p).sum(-1), rtol=1e-9)
    assert not np.allclose(found["kl"], divergences(torch.tensor(q), torch.tensor(p), "kl").numpy())


@pytest.mark.parametrize("name", ["hjs", "js", "kl"])
def test_equal_and_uniform_profiles_have_no_divergence_and_a_finite_gradient(name):
    """Where routers say nothing yet, 0/0 and log 0 do no harm."""
    for values in (np.full((2, 3, 8), 1 / 8), shares(0, 2, 3)):
        profiles = torch.tensor(values, requires_grad=True)
        apart = divergences(profiles, torch.tensor(values), name)
        apart.sum().backward()
        np.testing.assert_allclose(apart.detach().numpy(), 0, atol=1e-12)
        assert profiles.grad.isfinite().all()


# Families.


SLOPES = [(family, "both") for family in FAMILIES] + [(family, "stored") for family in FEW]
QUICK_SLOPES = [(family, "both") for family in REPRESENTATIVES] + [("olmoe", "stored")]


@pytest.mark.parametrize(
    ("family", "pivot"),
    [case if case in QUICK_SLOPES else pytest.param(*case, marks=pytest.mark.slow) for case in SLOPES],
)
def test_the_gradient_is_the_slope_of_the_loss(family, pivot, monkeypatch):
    """Along a direction of all router weights, the gradient is the central finite difference, in float64."""
    loaded = in_float64(family)
    with in_double(monkeypatch):
        batch = batch_of(loaded)
        n_layers, n_experts = len(loaded.routers), loaded.routers[0].n_experts
        drawn = np.random.default_rng(0).dirichlet(np.ones(n_experts), (len(batch[PAIR]), n_layers))
        batch[PIVOT_PROFILES] = torch.tensor(drawn)
        trainable(loaded.model, "routers")
        weights = [each for each in loaded.model.parameters() if each.requires_grad]
        generator = torch.Generator().manual_seed(1)
        directions = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in weights]
        with RoutingAlignment(loaded.model, **ALL, pivot=pivot) as alignment:
            total(alignment, loaded.model, batch).backward()
            assert all(each.grad is not None for each in weights)
            for router in loaded.router_modules:
                assert router.module.get_parameter(router.weight_name).grad.abs().max() > 1e-7
            slope = sum((each.grad * way).sum().item() for each, way in zip(weights, directions, strict=True))
            with torch.no_grad():
                expected = central_difference(partial(total, alignment, loaded.model, batch), weights, directions)
    assert slope == pytest.approx(expected, rel=1e-5, abs=1e-8)


@each_family()
def test_the_language_model_and_the_balance_are_the_models_own(family):
    """Without alignment the loss is the model's own, its load-balancing loss included where its outputs have one."""
    loaded = tiny(family)
    batch = batch_of(loaded)
    plain = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    config = loaded.model.config.get_text_config()
    with torch.no_grad():
        own = loaded.model(**plain).loss.item()
        reported = None
        if hasattr(config, "router_aux_loss_coef"):
            with suppress(TypeError):
                reported = getattr(loaded.model(**plain, output_router_logits=True), "aux_loss", None)
    with RoutingAlignment(loaded.model, coefficient=0.0, balance=0.0) as alignment:
        assert total(alignment, loaded.model, batch).item() == pytest.approx(own, rel=1e-6)
    with RoutingAlignment(loaded.model, coefficient=0.0) as alignment:
        whole = total(alignment, loaded.model, batch).item()
        balance = alignment.log().load_balance
    if reported is not None:
        assert balance == pytest.approx(float(reported), rel=1e-5)
    if balance is not None:
        assert whole == pytest.approx(own + config.router_aux_loss_coef * balance, rel=1e-6)
    else:
        assert whole == pytest.approx(own, rel=1e-6)


@each_family(FEW, quick=("olmoe",))
def test_the_divergence_is_that_of_captured_profiles(family):
    """What is logged is what `isogloss capture` and `isogloss analyze` find for these texts."""
    loaded = tiny(family)
    batch = batch_of(loaded)
    with RoutingAlignment(loaded.model, **ALL) as alignment, torch.no_grad():
        total(alignment, loaded.model, batch)
    log = alignment.log(evaluation=True)
    sides = [
        loaded.capture([each[side] for each in EXAMPLES], ITEM_IDS[: len(EXAMPLES)]).profiles
        for side in ("text", "pivot")
    ]
    expected = divergence(*sides).mean(0)
    np.testing.assert_allclose(list(log.by_layer.values()), expected, rtol=1e-3, atol=1e-6)
    assert list(log.by_layer) == [spec.layer for spec in loaded.routers]
    assert log.pairs == len(EXAMPLES)


# The pivot.


@pytest.mark.parametrize(("pivot", "reaches"), [("detach", False), ("both", True)])
def test_the_pivots_side_gets_gradient_only_where_it_is_asked_for(pivot, reaches):
    """What the pivot's texts are computed from has, under ``detach``, the gradient that it has without alignment."""
    loaded = tiny("olmoe")
    batch, found = batch_of(loaded), []
    embedded = loaded.model.get_input_embeddings()(batch.pop("input_ids")).detach()
    for coefficient in (0.0, 3.0):
        inputs = embedded.clone().requires_grad_()
        with RoutingAlignment(loaded.model, layers="all", coefficient=coefficient, pivot=pivot) as alignment:
            total(alignment, loaded.model, {**batch, "inputs_embeds": inputs}).backward()
        found.append(inputs.grad)
    texts, pivots = batch[PAIR] > 0, batch[PAIR] < 0
    assert (found[0][texts] - found[1][texts]).abs().max() > 1e-6
    assert torch.equal(found[0][pivots], found[1][pivots]) != reaches


def test_a_detached_pivot_is_a_stored_one():
    """Stored profiles of the same texts under the same model give the same gradient."""
    loaded = tiny("mixtral")
    batch = batch_of(loaded)
    fixed = loaded.capture([each["pivot"] for each in EXAMPLES], ITEM_IDS[: len(EXAMPLES)]).profiles
    rows = torch.zeros(len(batch[PAIR]), *fixed.shape[1:])
    rows[batch[PAIR] > 0] = torch.from_numpy(fixed)
    detached, both = (backward(loaded, batch, pivot=pivot, pair_weight="equal") for pivot in ("detach", "both"))
    stored = backward(loaded, {**batch, PIVOT_PROFILES: rows}, pivot="stored", pair_weight="equal")
    assert stored[0] == pytest.approx(detached[0], rel=1e-5)
    assert_close(stored[1], detached[1], rtol=1e-3, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_close(both[1], detached[1], rtol=1e-3, atol=1e-6)


# What is counted.


def test_padding_and_special_tokens_do_not_count():
    """A profile is that of the text's own tokens, whatever stands around them in the batch."""
    loaded = tiny("olmoe")
    found = []
    for options in ({}, {"append_eos": True}, {"pad_to_multiple_of": 64}):
        with RoutingAlignment(loaded.model, layers="all", coefficient=1.0) as alignment, torch.no_grad():
            total(alignment, loaded.model, batch_of(loaded, **options))
            found.append(list(alignment.log(evaluation=True).by_layer.values()))
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-5)


# However a step is computed.


def divided(loaded, batch, sizes, **options):
    """Gradients of one step that is accumulated over parts, of which each has so many pairs."""
    n_items = (batch["labels"][:, 1:] != -100).sum()
    with RoutingAlignment(loaded.model, **{**ALL, "balance": 0.0, **options}) as alignment:
        first = 0
        for size in sizes:
            part = {name: each[2 * first : 2 * (first + size)] for name, each in batch.items()}
            total(alignment, loaded.model, part, n_items).backward()
            first += size
    return gradients(loaded.model)


def test_accumulation_changes_nothing():
    """The gradients of parts of a step, of unlike sizes, add up to that of the whole."""
    loaded = tiny("olmoe")
    batch = batch_of(loaded)
    whole = divided(loaded, batch, [3])
    assert_close(divided(loaded, batch, [1, 2]), whole, rtol=1e-4, atol=1e-6)
    assert_close(divided(loaded, batch, [1, 1, 1]), whole, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_close(divided(loaded, batch, [1, 2], pair_weight="equal"), whole, rtol=1e-4, atol=1e-6)


def recompute(model, *, enabled=True, **options):
    """Switch checkpointing as transformers does, under its new name or its old one."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if enabled:
        getattr(model, f"{name}_checkpointing_enable")(options)
    else:
        getattr(model, f"{name}_checkpointing_disable")()


@each_family(quick=FEW)
def test_gradient_checkpointing_changes_nothing(family):
    """Layers that run again in the backward pass are not taken for new ones."""
    loaded = tiny(family)
    batch = batch_of(loaded)
    if not loaded.model.supports_gradient_checkpointing:
        pytest.skip("the family has no gradient checkpointing")
    recompute(loaded.model, use_reentrant=False)
    loaded.model.train()
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout) or hasattr(module, "attention_dropout"):
            module.p = module.attention_dropout = 0.0
    again = backward(loaded, batch)
    recompute(loaded.model, enabled=False)
    same = backward(loaded, batch)
    assert again[0] == pytest.approx(same[0], rel=1e-6)
    assert_close(again[1], same[1], rtol=1e-4, atol=1e-6)


def test_reentrant_checkpointing_is_refused():
    """It computes routers without gradient first, and the alignment's would be lost unseen."""
    loaded = tiny("olmoe")
    recompute(loaded.model, use_reentrant=True)
    loaded.model.train()
    with pytest.raises(ModelError, match="no reentrant checkpointing"):
        backward(loaded, batch_of(loaded))


@each_family(FEW, quick=("olmoe",))
def test_bfloat16_points_where_float32_does(family):
    """Profiles and divergences are computed in float32; the rest is the rounding of the model."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        loaded = tiny(family, dtype=dtype)
        with RoutingAlignment(loaded.model, **ALL, balance=0.0) as alignment:
            total(alignment, loaded.model, batch_of(loaded)).backward()
            found.append((alignment.log().divergence, gradients(loaded.model)))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.3)
    names = [name for name in found[0][1] if name.endswith("weight")]
    one, other = (torch.cat([each[name].float().flatten() for name in names]) for _, each in found)
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.5


def test_autocast_leaves_the_profiles_in_float32():
    """Inside torch.autocast the divergence of given logits is the same bit by bit."""
    loaded = tiny("olmoe")
    batch = batch_of(loaded)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    found = []
    for enabled in (False, True):
        with RoutingAlignment(loaded.model, **ALL, balance=0.0) as alignment:
            outputs = loaded.model(**inputs)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                alignment(outputs, batch["labels"])
            found.append(alignment.log().by_layer)
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT reads the old name
def test_adapters_of_peft_are_trained_through_their_wrapper():
    """Adapters that change nothing yet get the gradient of the alignment, through PEFT's forward."""
    peft = pytest.importorskip("peft")
    plain, adapted = tiny("olmoe"), tiny("olmoe")
    batch = batch_of(plain)
    with RoutingAlignment(adapted.model, **ALL) as alignment:
        torch.manual_seed(0)
        model = peft.get_peft_model(adapted.model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4))
        loss = total(alignment, model, batch)
        loss.backward()
        with_alignment = gradients(model)
        alignment.coefficient = 0.0
        total(alignment, model, batch).backward()
        without = gradients(model)
    assert loss.item() == pytest.approx(backward(plain, batch)[0], rel=1e-6)
    assert with_alignment.keys() == without.keys()
    assert all("lora" in name for name in with_alignment)
    assert any((with_alignment[name] - without[name]).abs().max() > 1e-6 for name in without)


# Two processes.

PROCESS = """
import sys
import torch
sys.path[:0] = {paths!r}
from models import tiny
from test_alignment import EXAMPLES, batch_of, total
from isogloss.learning import RoutingAlignment

rank = int(sys.argv[1])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method="file://{store}", rank=rank, world_size=2)
loaded = tiny("olmoe")
alignment = RoutingAlignment(loaded.model, layers="all", balance=0.0)
model = torch.nn.parallel.DistributedDataParallel(loaded.model)
batch = batch_of(loaded)
n_items = (batch["labels"][:, 1:] != -100).sum()
part = {{name: each[:2] if rank == 0 else each[2:] for name, each in batch.items()}}
loss = total(alignment, model, part, n_items) * 2  # as a trainer does, since DDP takes the mean over processes
loss.backward()
if rank == 0:
    found = {{name: each.grad for name, each in loaded.model.named_parameters() if each.grad is not None}}
    torch.save((alignment.coefficient, found), "{store}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    """Under DistributedDataParallel with gloo, each with its own pairs, factor and gradients are the whole's."""
    paths = [path for path in sys.path if path.endswith(("src", "support"))] + [str(Path(__file__).parent)]
    store = tmp_path / "store"
    code = PROCESS.format(paths=paths, store=store)
    started = [subprocess.Popen([sys.executable, "-P", "-c", code, str(rank)]) for rank in (0, 1)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    fixed, found = torch.load(f"{store}.pt")
    loaded = tiny("olmoe")
    with RoutingAlignment(loaded.model, layers="all", balance=0.0) as alignment:
        total(alignment, loaded.model, batch_of(loaded)).backward()
    assert fixed == pytest.approx(alignment.coefficient, rel=1e-6)
    assert_close(found, gradients(loaded.model), rtol=1e-4, atol=1e-6)


# The weight.


@pytest.mark.parametrize("pair_weight", ["tokens", "equal"])
def test_the_weight_is_a_ratio_to_the_language_modelling_loss(pair_weight):
    """On the first batch the alignment adds that share of the other loss; the factor stays afterwards."""
    loaded = tiny("olmoe")
    batch = batch_of(loaded)
    with RoutingAlignment(loaded.model, layers="all", weight=0.25, balance=0.0, pair_weight=pair_weight) as alignment:
        with torch.no_grad():
            lm_loss = total(alignment, loaded.model, batch).item()
        assert alignment.coefficient is None
        assert total(alignment, loaded.model, batch).item() == pytest.approx(1.25 * lm_loss, rel=1e-6)
        fixed = alignment.coefficient
        total(alignment, loaded.model, batch_of(loaded, EXAMPLES[:1]))
        assert alignment.log().coefficient == fixed


def test_texts_without_a_pivot_are_learned_and_not_aligned():
    """They may stand in the same batch, or be all of it."""
    loaded = tiny("olmoe")
    alone = [{"text": each["text"]} for each in EXAMPLES]
    with RoutingAlignment(loaded.model, **ALL, balance=0.0) as alignment:
        loss = total(alignment, loaded.model, batch_of(loaded, alone)).item()
        assert loss == pytest.approx(alignment.log().lm_loss, rel=1e-6)
        mixed = total(alignment, loaded.model, batch_of(loaded, [*alone, EXAMPLES[0]]))
        log = alignment.log()
        assert log.pairs == 1
        assert mixed.item() > log.lm_loss


# What is refused.


def test_a_batch_that_marks_no_pairs_is_refused():
    """Else a forgotten collator would train without alignment, unseen."""
    loaded = tiny("olmoe")
    batch = {name: each for name, each in batch_of(loaded).items() if name not in (PAIR, COUNTED)}
    with RoutingAlignment(loaded.model) as alignment:
        with pytest.raises(RunError, match=r"got no pairs.*PairCollator"):
            total(alignment, loaded.model, batch)
        with torch.no_grad():
            assert total(alignment, loaded.model, batch) > 0
        with pytest.raises(RunError, match="no labels"):
            alignment(loaded.model(batch["input_ids"]), None)


def test_outputs_of_another_forward_are_refused():
    """The routing that is aligned is that of the last forward."""
    loaded = tiny("olmoe")
    batch = batch_of(loaded)
    with RoutingAlignment(loaded.model) as alignment:
        outputs = loaded.model(**batch)
        loaded.model(**batch_of(loaded, EXAMPLES[:1]))
        with pytest.raises(RunError, match="had 2 rows, and these labels have 6"):
            alignment(outputs, batch["labels"])


def test_a_pair_that_is_torn_apart_is_refused():
    """As where something cuts a collated batch."""
    loaded = tiny("olmoe")
    batch = {name: each[:3] for name, each in batch_of(loaded).items()}
    with RoutingAlignment(loaded.model) as alignment, pytest.raises(RunError, match="2 texts and 1 pivots"):
        total(alignment, loaded.model, batch)


def test_a_pair_that_weighs_nothing_is_refused():
    """Pairs weigh as the tokens that are learned; where none is, the other weight is named."""
    loaded = tiny("olmoe")
    batch = batch_of(loaded)
    batch["labels"][2:4] = -100
    with RoutingAlignment(loaded.model, **ALL) as alignment, pytest.raises(RunError, match="pair_weight='equal'"):
        total(alignment, loaded.model, batch)


def test_a_router_that_is_bypassed_is_refused():
    """A fused kernel, or a block that was replaced, never calls the module."""
    loaded = tiny("olmoe")
    with RoutingAlignment(loaded.model) as alignment:
        router = loaded.router_modules[1]
        name = next(name for name, each in router.block.named_children() if each is router.module)
        setattr(router.block, name, copy.deepcopy(router.module))
        getattr(router.block, name)._forward_hooks.clear()
        with pytest.raises(ModelError, match="ran 0 times"):
            total(alignment, loaded.model, batch_of(loaded))


def test_quantised_routers_are_refused():
    """Their logits have no gradient to the weights."""
    loaded = tiny("olmoe")
    router = loaded.router_modules[0].module
    router.weight = torch.nn.Parameter(router.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ModelError, match="is quantised"):
        RoutingAlignment(loaded.model)


def test_a_model_that_isogloss_has_loaded_is_taken_too():
    """The model of transformers inside of it is what is trained."""
    loaded = tiny("olmoe")
    assert trainable(loaded, "routers") == trainable(loaded.model, "routers")
    with RoutingAlignment(loaded, **ALL) as alignment:
        assert total(alignment, loaded.model, batch_of(loaded)).requires_grad


def test_copies_of_the_model_are_refused():
    """`torch.nn.DataParallel` runs replicas, whose routers are other modules."""
    loaded = tiny("olmoe")
    with RoutingAlignment(loaded.model):
        replica = loaded.model._replicate_for_data_parallel()
        with pytest.raises(ModelError, match="DataParallel"):
            replica(**batch_of(loaded))


def test_frozen_weights_before_the_aligned_layers_are_refused():
    """Only what lies in or before the aligned layers can change their routing."""
    loaded = tiny("olmoe")
    trainable(loaded.model, "routers:3-3")
    with RoutingAlignment(loaded.model, layers=(0, 1)) as alignment, pytest.raises(ModelError, match="no gradient"):
        total(alignment, loaded.model, batch_of(loaded))


def test_layers_are_named_by_thirds():
    """Of the routed layers; others by their numbers."""
    loaded = tiny("olmoe")
    named = {"early": (0, 1), "middle": (2,), "late": (3,), "all": (0, 1, 2, 3), (1, 2): (1, 2)}
    for layers, expected in named.items():
        with RoutingAlignment(loaded.model, layers=layers) as alignment:
            assert alignment.layers == expected


def test_one_alignment_at_a_time():
    """The second would never see a pair; after the first is closed it may come."""
    loaded = tiny("olmoe")
    with RoutingAlignment(loaded.model), pytest.raises(ModelError, match="another alignment"):
        RoutingAlignment(loaded.model)
    RoutingAlignment(loaded.model).close()
    assert not loaded.model._forward_pre_hooks
    assert all(not each.module._forward_hooks for each in loaded.router_modules)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": "centre"}, "expected early, middle, late, all"),
        ({"layers": (9, 9)}, "no routed layer"),
        ({"divergence": "cosine"}, "expected hjs, js, kl"),
        ({"pivot": "english"}, "expected detach, both, stored"),
        ({"weight": -1.0}, "at least 0"),
        ({"coefficient": float("nan")}, "at least 0"),
    ],
)
def test_options_are_refused_in_one_line(options, says):
    """And nothing is left on the model."""
    loaded = tiny("olmoe")
    with pytest.raises(RunError, match=says) as error:
        RoutingAlignment(loaded.model, **options)
    assert "\n" not in str(error.value)
    assert not loaded.model._forward_pre_hooks


# Trainers and compiled models.


def stepped(batch_size, accumulation, folder):
    """Weights after one step of a Trainer on four pairs."""
    loaded = tiny("olmoe")
    examples = [*EXAMPLES, {"text": TEXTS[1], "pivot": TEXTS[2]}]
    arguments = TrainingArguments(
        folder,
        max_steps=1,
        logging_steps=1,
        per_device_eval_batch_size=len(EXAMPLES) + 1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=1.0,
        optim="sgd",
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    alignment = RoutingAlignment(loaded.model, **ALL, balance=0.0)
    trainer = Trainer(
        loaded.model,
        arguments,
        train_dataset=examples,
        data_collator=PairCollator(tokenizer=loaded.tokenizer),
        compute_loss_func=alignment,
    )
    alignment.log_to(trainer)
    trainer.train()
    trainer.evaluate(examples)
    for log, prefix in ((trainer.state.log_history[0], ""), (trainer.state.log_history[-1], "eval_")):
        assert log[f"{prefix}alignment/pairs"] == len(examples)
        parts = (log[f"{prefix}alignment/{name}"] for name in ("lm_loss", "coefficient", "divergence"))
        lm_loss, coefficient, divergence = parts
        assert log[f"{prefix}loss"] == pytest.approx(lm_loss + coefficient * divergence, rel=0.05)  # pairs by tokens
    return {name: each.detach() for name, each in loaded.model.named_parameters()}


def test_a_trainer_does_the_same_step_however_it_accumulates(tmp_path):
    """Four pairs at once, or one after the other, whose lengths differ."""
    untrained = {name: each.detach() for name, each in tiny("olmoe").model.named_parameters()}
    whole = stepped(4, 1, tmp_path)
    assert any((whole[name] - untrained[name]).abs().max() > 1e-3 for name in whole)
    assert_close(stepped(1, 4, tmp_path), whole, rtol=1e-4, atol=1e-5)


@pytest.fixture
def fresh_graphs():
    """Graphs of other tests do not count towards the most that torch keeps."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("fresh_graphs")
def test_a_model_that_is_compiled_afterwards_is_aligned():
    """The hooks are part of the graph; the gradients are those of the plain model."""
    loaded = tiny("olmoe")
    batch = batch_of(loaded)
    plain = backward(loaded, batch)
    with RoutingAlignment(loaded.model, **ALL) as alignment:
        model = torch.compile(loaded.model, backend="eager")
        for _ in range(2):
            loss = total(alignment, model, batch)
            loss.backward()
            assert loss.item() == pytest.approx(plain[0], rel=1e-5)
            found = {name.removeprefix("_orig_mod."): each for name, each in gradients(model).items()}
            assert_close(found, plain[1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("fresh_graphs")
def test_a_model_that_was_compiled_before_is_aligned_or_refused():
    """A graph that knows no hooks must not train without alignment."""
    loaded = tiny("olmoe")
    batch = batch_of(loaded)
    plain = backward(loaded, batch)
    loaded.model.compile(backend="eager")
    loaded.model(batch["input_ids"], batch["attention_mask"]).logits.sum().backward()
    gradients(loaded.model)
    with RoutingAlignment(loaded.model, **ALL) as alignment:
        try:
            loss = total(alignment, loaded.model, batch)
        except (ModelError, RunError):
            return
    assert loss.item() == pytest.approx(plain[0], rel=1e-5)
