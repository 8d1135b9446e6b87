"""Tasks as lm-evaluation-harness reads them, from local files, for the tests of its adapter."""

from __future__ import annotations

import contextlib

import pytest

__all__ = ["GENERATE", "no_hub"]

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


@contextlib.contextmanager
def no_hub(cache):
    """Read data sets from files alone, and cache them in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield
