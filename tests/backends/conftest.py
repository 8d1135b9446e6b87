"""Fixtures of the tests of backends."""

from __future__ import annotations

import pytest
from mxfp4_checkpoints import write_mxfp4


@pytest.fixture(scope="session")
def mxfp4_folders(tmp_path_factory):
    """(a gpt_oss checkpoint stored as openai/gpt-oss-20b is, the same with the weights that its bytes mean)."""
    packed, dense = (tmp_path_factory.mktemp(name) for name in ("packed", "dense"))
    write_mxfp4(packed, dense)
    return packed, dense
