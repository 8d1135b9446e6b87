"""Quantised versions of the shipped model in docs/findings.md: which choices of experts change, and by language.

``make findings-versions`` writes the versions into WORK, compares each with the shipped model, and rewrites the section
alone; it needs bitsandbytes and torchao. Every setting was fixed before a measurement.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TorchAoConfig

from findings_page import arguments, rewrite
from isogloss.evaluation import VersionComparison
from isogloss.languages import display_name
from isogloss.organism import ORGANISM, model_folder
from isogloss.workflows import VersionSource, compare_models, open_corpus
from markdown_parts import table

HEAD = "## Two versions of the shipped model"
N_ITEMS = 100
_FP8 = torch.float8_e4m3fn
_KEPT = ("lm_head", "mlp.gate")  # what the FP8 checkpoint leaves alone


def main() -> None:
    """Rewrite the section."""
    _, kept = arguments()
    corpus = open_corpus(ORGANISM, n_items=N_ITEMS)
    results = {}
    for name, (folder, options) in versions(kept / "versions").items():
        other = VersionSource(str(folder), dtype=options.get("dtype", "float32"), dequantize="dequantize" in options)
        results[name] = compare_models(
            ORGANISM, other, corpus, out=kept / "versions" / "compared" / name.replace(" ", "-")
        )
    rewrite(section(results))


def versions(folder: Path) -> dict[str, tuple[Path | str, dict[str, Any]]]:
    """Write every version that is not there; return name -> its folder and how it is loaded."""
    make: dict[str, Callable[[Path], None]] = {
        "experts rounded to 4 bits": lambda out: rounded(out, bits=4),
        "FP8, all but routers": fp8,
        "torchao int8": lambda out: quantised(out, _torchao()),
        "bitsandbytes int8": lambda out: quantised(out, BitsAndBytesConfig(load_in_8bit=True)),
        "bitsandbytes 4 bits": lambda out: quantised(
            out,
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
        ),
    }
    made: dict[str, tuple[Path | str, dict[str, Any]]] = {
        "itself": (ORGANISM, {}),
        "bfloat16": (ORGANISM, {"dtype": "bfloat16"}),
    }
    for name, write in make.items():
        out = folder / name.replace(" ", "-").replace(",", "")
        if not (out / "config.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
            write(out)
        made[name] = (out, {"dequantize": True} if write is fp8 else {})
    return made


def _torchao() -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415 - a package that only this script needs

    return TorchAoConfig(Int8WeightOnlyConfig(version=2))


def quantised(out: Path, settings: Any) -> None:  # noqa: ANN401 - transformers' configurations share no public base
    """Quantise the shipped model as transformers does on loading, and save it."""
    source = str(model_folder())
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, quantization_config=settings, device_map={"": "cpu"}
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)


def rounded(out: Path, *, bits: int) -> None:
    """Round every row of the experts' matrices to so many bits, symmetrically, and store the values as float32."""
    most = 2 ** (bits - 1) - 1

    def round_rows(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        weight = weight.float()
        if ".experts." not in name:
            return {name: weight}
        step = weight.abs().amax(-1, keepdim=True) / most
        return {name: (weight / step).round() * step}

    _copy(out, round_rows)


def fp8(out: Path) -> None:
    """Store every matrix but embeddings and routers in 8-bit floats with a scale, as DeepSeek-V3's checkpoints are."""

    def pack(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if "layers" not in name or weight.ndim == 1 or any(each in name for each in _KEPT):
            return {name: weight}
        scale = weight.float().abs().max() / torch.finfo(_FP8).max
        return {name: (weight.float() / scale).to(_FP8), f"{name}_scale_inv": scale.view(1, 1)}

    _copy(
        out,
        pack,
        {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": list(_KEPT)},
    )


def _copy(
    out: Path,
    change: Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]],
    quantisation: Mapping[str, Any] | None = None,
) -> None:
    """Copy the shipped checkpoint with its tensors changed; the configuration, written last, says that it is whole."""
    out.mkdir(parents=True)
    for path in model_folder().iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            shutil.copy(path, out)
    weights = load_file(model_folder() / "model.safetensors")
    stored = {key: value for name, weight in weights.items() for key, value in change(name, weight).items()}
    save_file({name: each.contiguous() for name, each in stored.items()}, out / "model.safetensors", {"format": "pt"})
    settings = json.loads((model_folder() / "config.json").read_text(encoding="utf-8"))
    settings |= {} if quantisation is None else {"quantization_config": dict(quantisation)}
    (out / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def section(results: Mapping[str, VersionComparison]) -> Iterator[str]:
    """Say what is compared, list what changes, and whether languages differ in it."""
    first = next(iter(results.values()))
    yield HEAD
    yield (
        f"`isogloss doctor organism --against OTHER --corpus organism --items {N_ITEMS}`: the shipped model in float32 "
        f"against versions of it, {first.overall.n_tokens:,} tokens of {first.n_items} scenes in "
        f"{len(first.languages)} languages. Means over layers and languages; intervals over languages and items. KL in "
        "nats per token, of the 32 likeliest tokens and the rest. The 4-bit rounding of experts is this script's own, "
        "row by row, since no method at hand quantises fused experts on a processor."
    )
    rows = []
    for name, each in results.items():
        means = each.overall.means
        shares = [_percent(means[measure]) for measure in ("choices", "sets", "first", "next_token")]
        rows.append((name, "yes" if _packed(each) else "no", *shares, f"{means['kl'].value:.2g}"))
    columns = (
        "Version",
        "Experts in 8 bits or fewer",
        "Choices, %",
        "Sets, %",
        "First expert, %",
        "Next token, %",
        "KL",
    )
    yield table(columns, rows)
    yield "\n".join(f"* {name}: {_languages(each)}." for name, each in results.items() if name != "itself")


def _packed(result: VersionComparison) -> bool:
    return any(
        each.part == "experts" and each.stored and each.dtype not in ("float32", "bfloat16")
        for each in result.second.weights
    )


def _percent(estimate: Any) -> str:  # noqa: ANN401 - an Estimate
    return str(estimate.scaled(100).text("{:.2f}".format))


def _languages(result: VersionComparison) -> str:
    values = {code: each.means["choices"].value for code, each in result.languages.items()}
    ends = [min(values, key=values.__getitem__), max(values, key=values.__getitem__)]
    span = " to ".join(f"{100 * values[code]:.2f} % ({display_name(code)})" for code in ends)
    unlike = ", ".join(map(display_name, result.unlike_others))
    shown = (
        f"unlike the mean of the others by Holm: {unlike}"
        if unlike
        else "no language is shown to differ from the others"
    )
    return f"choices change by {span}; {shown}"


if __name__ == "__main__":
    main()
