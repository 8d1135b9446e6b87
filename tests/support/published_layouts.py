"""Small data sets in the layouts in which the papers' texts and tasks are published."""

from __future__ import annotations

import json
from pathlib import Path

from isogloss.languages import resolve

NAMES = ("English", "Swahili", "Chinese", "Bengali", "German", "Spanish", "French", "Japanese", "Russian", "Thai")
"""Languages of GSM8K-Instruct, English first as in its file."""

_WORDS = ("river", "cup", "market", "school", "snail", "wall", "morning", "garden", "stone", "bread")


def write_repository(folder: Path, split: str, configs, *, per_language=True) -> Path:
    """Write rows per configuration as the hub stores them: one file each, named in the README."""
    names = list(configs) if per_language else []
    card = ["---", "configs:", "- config_name: default", "  data_files:", f"  - split: {split}", f"    path: {split}/*"]
    for name in names:
        card += [f"- config_name: {name}", "  data_files:", f"  - split: {split}", f"    path: {split}/{name}.jsonl"]
    (folder / split).mkdir(parents=True)
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
    for name, rows in configs.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / split / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def copy_of(folder: Path, rows, name="MGSM8KInstruct_Parallel.json") -> Path:
    """Write a copy of a repository with one file."""
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    (folder / name).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def instruction_prompt(language: str, question: str) -> str:
    """What MathOctopus was tuned on."""
    return (
        f"Below is an instruction that describes a task. Write a response that appropriately completes the request in "
        f"{language}. Please answer in {language}.\n\n### Instruction:\n{question}\n\n### Response:"
    )


def sentence(code: str, number: int) -> str:
    """Write something that differs by language and number."""
    words = [_WORDS[(number * 3 + place * 7 + len(code)) % len(_WORDS)] for place in range(4)]
    return f"{code} {' '.join(words)} {number}."


def belebele(folder: Path, languages, *, n_passages=6) -> Path:
    """Write the hub's layout, one question per passage."""
    configs = {}
    for code in map(resolve, languages):
        configs[code] = [
            {
                "link": f"link-{number}",
                "question_number": 1,
                "flores_passage": f"{sentence(code, number)} {sentence(code, number + 1)}",
                "question": f"{sentence(code, number)}?",
                **{f"mc_answer{k}": f"{code} {k}" for k in range(1, 5)},
                "correct_answer_num": str(1 + (number * len(code) + ord(code[0])) % 4),
                "dialect": code,
            }
            for number in range(n_passages)
        ]
    return write_repository(folder, "test", configs)


def gsm8k_instruct(folder: Path, *, n_items=8) -> Path:
    """Write the one file of the hub, ten languages per item."""
    rows = [
        {
            "prompt": instruction_prompt(name, f"{number} + {number}, {name}?"),
            "chosen": f"{number} + {number} = {2 * number}. #### {2 * number}",
            "rejected": "0",
        }
        for number in range(n_items)
        for name in NAMES
    ]
    return copy_of(folder, rows)


def medinstruct(folder: Path, *, n_items=8) -> Path:
    """Write instructions, some with an input."""
    rows = [
        {"instruction": f"Name organ {n}.", "input": "<noinput>" if n % 2 else "It beats.", "output": f"Organ {n}."}
        for n in range(n_items)
    ]
    return copy_of(folder, rows, "train.json")


def mgsm(folder: Path, languages, *, n_items=2) -> Path:
    """Write the original release: question, tab, number."""
    folder.mkdir()
    for code in languages:
        lines = (f"{sentence(code, n)} {n} + 1?\t{n + 1}\n" for n in range(n_items))
        (folder / f"mgsm_{code}.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


def global_mmlu(folder: Path, languages, subjects, *, n_items=60) -> Path:
    """Write the hub's layout, as many questions of every subject."""
    rows = [
        {
            "sample_id": f"{subject}/test/{number}",
            "subject": subject,
            "question": f"{subject} {number}?",
            **{f"option_{letter}": f"{letter} {number}" for letter in "abcd"},
            "answer": "ABCD"[number % 4],
        }
        for subject in subjects
        for number in range(n_items)
    ]
    return write_repository(folder, "test", dict.fromkeys(languages, rows))


def flores_plus(folder: Path, languages, *, n_items=6) -> Path:
    """Write the hub's layout, splits dev and devtest, codes of FLORES-200."""
    configs = {}
    for code in map(resolve, languages):
        iso, script = code.split("_")
        configs[code] = [
            {"id": n, "iso_639_3": iso, "iso_15924": script, "text": sentence(code, n), "url": "-"}
            for n in range(n_items)
        ]
    write_repository(folder, "dev", configs)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name in configs:
        card = card.replace(
            f"path: dev/{name}.jsonl", f"path: dev/{name}.jsonl\n  - split: devtest\n    path: dev/{name}.jsonl"
        )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def polymath(folder: Path, languages, *, n_items=2) -> Path:
    """Write the repository's layout, level low."""
    for code in languages:
        (folder / code).mkdir(parents=True)
        rows = [
            {"id": f"low-{code}-{n}", "question": f"{sentence(code, n)}?", "answer": str(n)} for n in range(n_items)
        ]
        (folder / code / "low.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
