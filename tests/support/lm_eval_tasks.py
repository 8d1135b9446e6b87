"""Tasks as lm-evaluation-harness reads them, from local files."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json

import pytest

from isogloss.evaluation import load_task

if importlib.util.find_spec("lm_eval") is not None:
    # Before any test: when they are first imported, lm-eval and what it imports set environment variables.
    for _name in ("lm_eval.models.huggingface", "sklearn"):
        importlib.import_module(_name)

__all__ = ["EQUAL", "GENERATE", "N_ITEMS", "no_hub", "write_tasks"]

GENERATE = """
task: planted_{language}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["x"], do_sample: false, max_gen_toks: 2}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
"""
"""A task of sums in one language, whose answers are generated."""

N_ITEMS = 6
LANGUAGES = ("eng_Latn", "swh_Latn")

_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
"""
_MEAN = "{{metric: {}, aggregation: mean, higher_is_better: true}}"
_CHOICE = f"""
doc_to_choice: "{{{{options}}}}"
doc_to_target: right
metric_list: [{", ".join(_MEAN.format(name) for name in ("acc", "acc_norm"))}]
""".replace("{{metric", "{metric").replace("true}}", "true}")
_GENERATE = """
doc_to_target: reference
generation_kwargs: {how}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
_GREEDY = '{until: ["\\n\\n", "+"], do_sample: false, max_gen_toks: 24}'
_OTHER = {
    "few": '{until: ["\\n"], max_gen_toks: 3, num_beams: 1}',
    "end": "{max_gen_toks: 24, until: []}",
    "drawn": '{until: ["\\n"], do_sample: true, temperature: 1.5, top_p: 0.95, max_gen_toks: 8}',
    "beams": '{until: ["\\n"], num_beams: 4, max_gen_toks: 8}',
    "long": '{until: ["\\n"], max_gen_toks: 4000}',
}
_FILTERS = """
filter_list:
  - {name: first-number, filter: [{function: regex, regex_pattern: "(\\\\d+)"}, {function: take_first}]}
  - {name: whole, filter: [{function: take_first}]}
"""
EQUAL = ("x_eng_Latn", "x_swh_Latn", "few", "end", "filtered", "choice", "spaced", "shots", "empty", "last", "rolling")
"""Names of the tasks that every engine answers as lm-eval's own model does."""


def _rows(language):
    """Problems in one language, with wrong worked answers beside the right one."""
    for item in load_task("organism:reference", languages=[language], n_items=N_ITEMS).items[language]:
        options = [item.reference, item.reference[::-1], f" {item.reference[:4]}", "7"]
        yield {"prompt": item.prompt, "reference": item.reference, "options": options, "right": 0}


def write_tasks(folder):
    """Write tasks of every kind of request on the organism's problems: those of `EQUAL`, and drawn, beams and long."""
    file = {language: folder / f"{language}.jsonl" for language in LANGUAGES}
    for language, path in file.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in _rows(language)), encoding="utf-8")

    def write(name, kind, rest, language="swh_Latn", text=None):
        head = _TASK.format(name=name, file=file[language], kind=kind)
        head = head if text is None else head.replace('"{{prompt}}"', text)
        (folder / f"{name}.yaml").write_text(head + rest, encoding="utf-8")

    for language in LANGUAGES:
        write(f"x_{language}", "generate_until", _GENERATE.format(how=_GREEDY), language)
    for name, how in _OTHER.items():
        write(name, "generate_until", _GENERATE.format(how=how) + ("repeats: 2\n" if name == "drawn" else ""))
    write("filtered", "generate_until", _GENERATE.format(how=_GREEDY) + _FILTERS)
    write("choice", "multiple_choice", _CHOICE)
    write("spaced", "multiple_choice", _CHOICE + 'target_delimiter: ""\n', text='"{{prompt}}  "')
    write("shots", "multiple_choice", _CHOICE + 'num_fewshot: 2\nfewshot_split: test\ndescription: "Sums.\\n"\n')
    write("empty", "multiple_choice", _CHOICE + 'target_delimiter: ""\n', text='""')
    accuracy = f"metric_list: [{_MEAN.format('acc')}]\n".replace("{{", "{").replace("}}", "}")
    write("last", "loglikelihood", f'doc_to_target: "{{{{reference[:2]}}}}"\n{accuracy}', "eng_Latn")
    rolling = 'doc_to_target: "{{prompt}}{{reference}}"\nmetric_list:\n  - {metric: bits_per_byte}\n'
    write("rolling", "loglikelihood_rolling", rolling, text='""')
    return folder


@contextlib.contextmanager
def no_hub(cache):
    """Read data sets from files alone, and cache them in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield
