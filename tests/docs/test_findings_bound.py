"""The section on the bound: settings in the order of what is bounded, and what they say, from known numbers."""

from __future__ import annotations

import pytest

from isogloss.statistics import Estimate


@pytest.fixture
def page(document_script):
    """The script that writes the section."""
    return document_script("findings_bound")


def setting(page, strength, kl, fall, *, spread=0.01):
    """Two protected languages; German moves more, and loses twice as much."""
    mean = Estimate(-fall, -fall - spread, -fall + spread, 2)
    moved, each = {"eng_Latn": kl / 2, "deu_Latn": kl}, {"eng_Latn": 0.0, "deu_Latn": -2 * fall}
    return page.Setting(0.001, strength, moved, Estimate(0.3, 0.2, 0.4, 4), mean, each)


def test_settings_are_in_the_order_of_the_divergence(page):
    """With the language that moves most, and the one that loses most."""
    found = [setting(page, 2.0, 0.08, 0.05), setting(page, 0.5, 0.01, 0.005), setting(page, 1.0, 0.03, 0.02)]
    text = page.section(found)
    assert text.index("0.0100 (German)") < text.index("0.0300 (German)") < text.index("0.0800 (German)")
    assert "| 0.0800 (German) | 0.0600 | 0.001 | 2 | −5.0 [−6.0, −4.0] | German -10.0 | 30.0 [20.0, 40.0] |" in text
    assert (
        "* Within 0.02 nats (1 of 3 settings) the mean of the protected languages changes by -0.5 points at worst"
        in text
    )
    assert "a single one by -1.0." in text
    assert "shown to fall is 0.030 nats: −2.0 [−3.0, −1.0] points" in text
    assert "(6 pairs" in text
    assert "is -0.52" in text


def test_no_loss_is_said(page):
    """Where no interval lies below 0."""
    text = page.verdict([setting(page, 1.0, 0.5, 0.005, spread=0.01), setting(page, 2.0, 0.6, 0.001)])
    assert "shown to fall at none of them" in text
    assert "Within" not in text
