"""What is said to be supported is what was proven, in the record, the command and the documents alike."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import prove_plugin
import pytest
import transformers
from commands import printed, run
from configs import moe_model_types
from models import FAMILIES, REPRESENTATIVES, kind_of_router, text_type, tiny
from packaging.requirements import Requirement
from packaging.version import Version
from transformers import __version__ as installed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from isogloss.backends.families import FAMILIES as ROWS
from isogloss.backends.families import LOWEST_TRANSFORMERS, REFUSED
from isogloss.backends.support import Proof, proofs, supported_models
from isogloss.cli import main
from isogloss.steering import KINDS

ROOT = Path(__file__).parents[2]
RECORD = json.loads(prove_plugin.RECORD.read_text(encoding="utf-8"))


def test_every_model_type_has_a_row_or_a_reason():
    """Each causal Mixture-of-Experts model type of this transformers has a row or is refused; none that was is gone."""
    found = moe_model_types()
    known = [name for name in RECORD if Version(name) <= Version(installed)]
    before = RECORD[known[-1]]["families"] if known else {}
    new = [name for name in found if name not in REFUSED and text_type(name) not in ROWS]
    vanished = sorted(set(before) - set(found))
    assert not new + vanished, (
        f"transformers {installed} has model types without a row: {new}; and lacks these of {known[-1:]}: {vanished}. "
        "Give each new one a row in backends/families.py, or a reason in REFUSED, then `make prove`"
    )


def test_every_router_of_the_library_is_known():
    """Each of its files that records router logits is of a model type with a row, inside one that has, or refused."""
    known = {CONFIG_MAPPING[name].__module__ for name in CONFIG_MAPPING_NAMES if name in (*REFUSED, *FAMILIES)}
    known |= {CONFIG_MAPPING[name].__module__ for name in moe_model_types()}
    folder = Path(transformers.__file__).parent / "models"
    routed = {
        path.parent.name
        for path in folder.glob("*/modeling_*.py")
        if '"router_logits":' in path.read_text(encoding="utf-8")
    }
    assert len(routed) > 50
    assert routed - {module.rpartition(".")[0].rpartition(".")[2] for module in known} == set()


def test_each_kind_of_router_has_one_representative():
    """What `make test` runs of the families: one of each kind, by their rows."""
    assert len(REPRESENTATIVES) == len({kind_of_router(name) for name in FAMILIES})
    assert {kind_of_router(name) for name in REPRESENTATIVES} == {kind_of_router(name) for name in FAMILIES}


@pytest.mark.slow
def test_each_rule_that_is_read_from_a_model_has_a_representative():
    """A row may leave scoring or renormalising to the model: the rules that are read are those of representatives."""
    rules = {name: rule_of(tiny(name).router_modules[-1].spec) for name in FAMILIES}
    assert set(rules.values()) == {rules[name] for name in REPRESENTATIVES}


def rule_of(spec):
    """What a router's specification says besides sizes."""
    groups, jitter = spec.n_groups > 1, spec.jitter > 0
    return dataclasses.replace(
        spec, layer=0, n_experts=8, top_k=2, n_groups=1 + groups, top_groups=1, scaling=1.0, jitter=0.01 * jitter
    )


def test_the_record_of_this_version_is_whole():
    """On a version that has a record, exactly the families that the suites run are proven."""
    if installed not in RECORD:
        pytest.skip(f"no record of transformers {installed}; `make prove` writes those of {', '.join(RECORD)}")
    recorded = {name: found["row"] for name, found in RECORD[installed]["families"].items()}
    assert recorded == {name: text_type(name) for name in FAMILIES}, "the record is of other families: run `make prove`"


@pytest.mark.parametrize("version", RECORD)
def test_the_record_is_of_the_suites_as_they_are(version):
    """A check that was added, or changed its parameters, has to be proven before it is claimed."""
    assert RECORD[version]["checks"] == prove_plugin.checks(), "the record is of other checks: run `make prove`"


@pytest.mark.parametrize("version", RECORD)
def test_no_family_fails_where_its_row_says_that_it_works(version):
    """A family that a version cannot run as its row says starts at a later one."""
    failed = list(RECORD[version]["failed"])
    assert not failed, f"{failed} fail on transformers {version}: raise `since` in their rows, then `make prove`"


def test_both_ends_of_the_supported_versions_are_proven():
    """The project's requirement, the families' lowest version, the pinned version and the record agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (required,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "transformers")
    (lowest,) = required.specifier
    assert (lowest.operator, Version(lowest.version)) == (">=", Version(LOWEST_TRANSFORMERS))
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^transformers==(.+)$", constraints, re.MULTILINE)[1]
    assert list(RECORD) == sorted(RECORD, key=Version)
    assert Version(next(iter(RECORD))) == Version(LOWEST_TRANSFORMERS)
    assert pinned in RECORD, f"the pinned transformers {pinned} is not proven: run `make prove`"


def test_every_row_is_proven_on_every_version_that_it_claims():
    """No row without a proof, none that a later version lost, and every kind and dtype in each."""
    supports = {support.model_type: support for support in supported_models()}
    assert set(supports) >= set(ROWS) | set(REFUSED)
    for support in supports.values():
        if support.model_type in REFUSED:
            assert (support.status, support.kinds, support.capture) == ("refused", (), False)
            assert support.reason == REFUSED[support.model_type]
            continue
        assert support.status == "proven", f"{support.model_type} has a row and no proof: run `make prove`"
        assert support.kinds == KINDS
        assert support.transformers == tuple(RECORD)[-len(support.transformers) :]
        assert Version(support.transformers[0]) >= Version(support.since)
        for proof in support.proof.values():
            assert proof.values("dtype") == {"float32", "bfloat16"}


def test_a_skipped_value_is_not_proven():
    """What does not apply to a family is not among what it passed."""
    proof = Proof("2", "3", {"a": {"side": ("left", "right")}, "b": {"side": ("left", "right")}}, {"a[left]": "why"})
    assert proof.values("side") == {"right"}
    assert proof.values("dtype") == frozenset()


def proved(path, **outcomes):
    """The record after a run of a few cases: ``check__family`` to passed, failed or skipped; no family is ``none``."""
    prover = prove_plugin.Prover(path)
    for name, outcome in outcomes.items():
        check, _, family = name.partition("__")
        prover.cases[name] = (check, None if family == "none" else family)
        if outcome is not None:
            flags = {flag: outcome == flag for flag in ("passed", "failed", "skipped")}
            report = SimpleNamespace(nodeid=name, when="call", longrepr=("file", 1, "Skipped: no such road"), **flags)
            prover.pytest_runtest_logreport(report)
    prover.pytest_sessionfinish()
    return json.loads(path.read_text())


def test_a_run_is_written_beside_other_versions(tmp_path):
    """What passed, what was skipped and what failed by family; other versions stay, lowest first."""
    path = tmp_path / "record.json"
    path.write_text('{"99.0": {}, "5.1.0": {}}')
    found = proved(path, a__olmoe="passed", b__olmoe="skipped", a__llama4="passed", a__zaya="failed", c__none="passed")
    assert list(found) == ["5.1.0", installed, "99.0"]
    assert found[installed]["families"] == {
        "llama4": {"row": "llama4_text", "skipped": {}},
        "olmoe": {"row": "olmoe", "skipped": {"b": "no such road"}},
    }
    assert found[installed]["failed"] == {"zaya": ["a"]}


@pytest.mark.parametrize("outcomes", [{"c__none": "failed"}, {"b__olmoe": None}, {}])
def test_what_proves_nothing_is_not_written(tmp_path, outcomes):
    """A failure outside the families, or a case without an outcome, leaves the record alone."""
    path = tmp_path / "record.json"
    path.write_text('{"5.1.0": {}}')
    passed = {"a__olmoe": "passed"} if outcomes else {}
    assert proved(path, **passed, **outcomes) == {"5.1.0": {}}


@pytest.mark.parametrize("left_out", [("padding_side_changes_no_choice[left]", "olmoe"), ("no_hook_is_left", None)])
def test_a_part_of_the_suites_is_refused(monkeypatch, tmp_path, left_out):
    """Nothing runs where one case of a family, or one other test of the suites, is not selected."""
    monkeypatch.setattr(prove_plugin, "case_of", lambda item: item.case)
    whole = prove_plugin.expected()
    assert left_out in whole
    items = [SimpleNamespace(nodeid=str(case), case=case, path=prove_plugin.SUITES[0]) for case in whole]
    config = SimpleNamespace(option=SimpleNamespace(collectonly=False))
    prover = prove_plugin.Prover(tmp_path / "record.json")
    prover.pytest_collection_finish(SimpleNamespace(items=items, config=config))
    part = [item for item in items if item.case != left_out]
    with pytest.raises(pytest.UsageError, match="but 1 of their tests are missing, 0 others"):
        prover.pytest_collection_finish(SimpleNamespace(items=part, config=config))


def test_models_as_json(capsys):
    """One object per model type, with the fields that others rely on."""
    assert run("models", "--json") == 0
    found = {row["model_type"]: row for row in printed(capsys)}
    assert {name for name, row in found.items() if row["status"] == "refused"} == set(REFUSED)
    assert set(moe_model_types()) <= set(found)
    assert {row["status"] for row in found.values()} == {"proven", "refused"}
    qwen = found["qwen3_moe"]
    assert (qwen["kinds"], qwen["reason"], qwen["transformers"]) == (list(KINDS), None, list(RECORD))
    assert qwen["proof"][LOWEST_TRANSFORMERS]["checks"]["equals_editing_the_reference_router"]["intervention"]
    kinds = {name: found[name]["baked_kinds"] for name in ("deepseek_v3", "gpt_oss", "qwen3_moe", "doge")}
    assert kinds == {"deepseek_v3": ["select"], "gpt_oss": ["offset"], "qwen3_moe": [], "doge": []}
    assert found["llama4"]["text_model_type"] == "llama4_text"
    assert found["doge"]["reason"] == REFUSED["doge"]


def test_models_as_text(capsys):
    """One line per model type, refused ones last; notes are cut."""
    assert run("models") == 0
    lines = capsys.readouterr().out.splitlines()
    supports = supported_models()
    assert len(lines) == len(supports) + 3
    assert [line.split()[0] for line in lines[1:-2]] == [support.model_type for support in supports]
    (line,) = (line for line in lines if line.startswith("deepseek_v3 "))
    assert "deepseek-ai/DeepSeek-V3 " in line
    assert "sigmoid + bias + groups" in line
    assert ", ".join(proofs("deepseek_v3")) in line
    assert line.split("sigmoid + bias + groups")[1].split()[0] == "select"
    assert "isogloss bake" in lines[-2]
    assert lines[-3].rstrip().split(maxsplit=2) == ["unlimited_ocr", "refused", REFUSED["unlimited_ocr"]]


def test_models_takes_nothing_else(capsys):
    """Wrong use has exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(["models", "qwen3_moe"])
    assert stopped.value.code == 2
    assert "qwen3_moe" in capsys.readouterr().err


def test_models_needs_no_torch():
    """The command is instant: it loads neither torch nor transformers."""
    code = (
        "import sys; from isogloss.cli import main; main(['models', '--json']);"
        " sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_documents_are_as_generated(document_script):
    """README.md's overview and docs/families.md say what the record says."""
    write = document_script("write")
    remedy = "run `make prove`, or `python docs/write.py families`"
    assert write.FAMILIES.read_text(encoding="utf-8") == write.families_page(), remedy
    readme = write.README.read_text(encoding="utf-8")
    assert readme == write.with_block(readme, "families", write.families_block()), remedy
    assert f"<!-- families: written by docs/write.py -->\n{write.families_block()}<!-- end of families -->" in readme
    assert len(readme.splitlines()) <= 160
