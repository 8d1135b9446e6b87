"""The study of learned adapters: controls change one thing, numbers are those of the answers, LoRA leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isogloss.backends.huggingface.losses import answer_loss
from isogloss.backends.joint_texts import Measured
from isogloss.backends.open import load
from isogloss.routing import Fingerprint
from isogloss.steering import AdaptedRouter, RouterAdapter

FINGERPRINT = Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12")


@pytest.fixture
def arms(document_script):
    """What is learned, and the controls."""
    return document_script("findings_adapters_arms")


@pytest.fixture
def page(document_script):
    """The script that writes the sections."""
    return document_script("findings_adapters")


def test_permuted_adapters_have_the_same_rows_elsewhere(arms):
    """In every layer, by an order that depends on the seed."""
    rng = np.random.default_rng(0)
    routers = tuple(
        AdaptedRouter(
            layer, f"model.layers.{layer}.mlp.gate.weight", *(rng.normal(size=each) for each in ((8, 3), (3, 5)))
        )
        for layer in (0, 1)
    )
    adapter = RouterAdapter(FINGERPRINT, routers, ("x", "y", "z"))
    first, other = (arms.permuted(adapter, seed) for seed in (0, 1))
    for layer in (0, 1):
        rows = [sorted(map(tuple, each.delta(layer).tolist())) for each in (adapter, first, other)]
        assert rows[0] == rows[1] == rows[2]
        assert not np.array_equal(adapter.delta(layer), first.delta(layer))
    assert first != other


def test_lora_on_attention_acts_has_the_right_gradient_and_leaves_nothing(arms):
    """Along its gradient the loss changes as the gradient says; afterwards, and left out, the model is as before."""
    model = load("organism")  # on several threads two forwards round otherwise
    ids = model.tokenizer("Anna has 3 apples and 4 pears.", return_tensors="pt")["input_ids"]
    text = [Measured(0, ids[0].tolist(), 0, ids.shape[1] - 1)]
    with torch.no_grad():
        plain = model.model(ids).logits
    numbers = arms.AttentionNumbers(model, 0)
    assert len(numbers.start()) == 43008
    with torch.no_grad():
        assert torch.allclose(model.model(ids).logits, plain, rtol=0, atol=1e-5)
    rng = np.random.default_rng(0)
    values = torch.from_numpy(numbers.start() + 0.05 * rng.standard_normal(43008).astype(np.float32)).requires_grad_()
    with numbers.applied(values) as change:
        loss = answer_loss(model, text)
        (gradient,) = torch.autograd.grad(loss, values)
        with change.left_out():
            assert torch.allclose(model.model(ids).logits, plain, rtol=0, atol=1e-5)

    def moved(step):
        with numbers.steered((values + step * gradient / gradient.norm()).detach().numpy()):
            return answer_loss(model, text).item()

    slope = (moved(0.003) - moved(-0.003)) / 0.006
    assert gradient.norm().item() == pytest.approx(slope, rel=0.05)
    with numbers.steered(values.detach().numpy()):
        assert not torch.allclose(model.model(ids).logits, plain, atol=1e-3)
    with torch.no_grad():
        assert torch.allclose(model.model(ids).logits, plain, rtol=0, atol=1e-5)


def test_ranks_are_correlated_within_languages(page):
    """1 where the order is the same in each language, however far apart these are; chance where it is not."""
    gains = np.arange(12.0).reshape(6, 2) + np.array([0, 100])
    value, p = page.rank_correlation(gains, gains**3)
    assert value == pytest.approx(1)
    assert p < 0.01  # of 720 orders of six arms two are as extreme
    assert page.rank_correlation(gains, -gains)[0] == pytest.approx(-1)
    value, p = page.rank_correlation(gains, np.zeros_like(gains))
    assert (value, p) == (0, 1)


def test_results_are_kept_by_arm_and_of_the_shipped_model_alone(document_script, monkeypatch, tmp_path):
    """What is read back is what was measured, divergences to float16; results of other weights are refused."""
    study = document_script("findings_adapters_measured")
    rng = np.random.default_rng(0)
    right = {"swh_Latn": np.array([1.0, 0, 1]), "eng_Latn": np.array([1.0, 1])}
    routed = study.Measured(right, {"swh_Latn": rng.random((60, 12))}, [40, 80], [0.25, 0.5], 15360)
    kept = {"baseline": study.Measured(right, {"swh_Latn": rng.random((60, 12))}), "plan-32-0": routed}
    file = tmp_path / "kept.safetensors"
    assert study.read_stored(file) == {}
    study.store(kept, file)
    again = study.read_stored(file)
    assert again.keys() == kept.keys()
    assert {code: rows.tolist() for code, rows in again["plan-32-0"].right.items()} == {
        code: rows.tolist() for code, rows in right.items()
    }
    assert np.allclose(again["plan-32-0"].distance["swh_Latn"], routed.distance["swh_Latn"], rtol=0, atol=3e-4)
    assert (again["plan-32-0"].best_steps, again["plan-32-0"].kl, again["plan-32-0"].n_numbers) == (
        [40, 80],
        [0.25, 0.5],
        15360,
    )
    assert (list(again["baseline"].best_steps), again["baseline"].n_numbers) == ([], 0)
    monkeypatch.setattr(study, "_model", lambda: "ab12")
    with pytest.raises(SystemExit, match="another model"):
        study.read_stored(file)


@pytest.mark.slow
def test_the_section_says_what_was_measured(page, arms, monkeypatch):
    """Rows for every arm, differences of the right sign, the verdict by the counts of its pairs."""
    codes = (*arms.LANGUAGES, arms.PIVOT, *arms.OTHERS)

    def measured(right, distance):
        items = {code: np.arange(100) < (right if code in arms.LANGUAGES else 90) for code in codes}
        routed = {code: np.full((60, 12), distance) for code in arms.LANGUAGES}
        return page.Measured({code: each.astype(float) for code, each in items.items()}, routed)

    run = arms.Run("32", 32, 120, (0, 1))
    monkeypatch.setattr(page, "RUNS", (run,))
    found = {"baseline": measured(10, 0.2)}
    for place, (name, _) in enumerate(page.everything()):
        found |= {f"{name}-32-{seed}": measured(20 + 5 * place, 0.3 + 0.01 * place) for seed in (0, 1)}
    table = page.arms_table(found, run).split("\n")
    assert len(table) == 3 + len(list(page.everything()))
    assert "| 10.0 [10.0, 10.0] |" in table[3] or "| 10.0 [" in table[3]
    assert "LoRA on attention does more than routers whole of about the same size: shown (5.0" in page.claims(
        found, run
    )
    said = page.verdict(found)
    assert "closer to English" not in said
    assert said.count(", 32 examples (+") == len(list(page.everything()))
    assert "of the learned arms +1.00 (p" in said
    n_arms = len(list(page.everything()))
    assert f", {n_arms} arms)" in said  # two seeds of an arm are one arm
