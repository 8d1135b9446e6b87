"""The command line of the OpenAI-compatible server, and what is sent to it."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request

from deadline import PATIENCE

from checkpoints import checkpoint

__all__ = ["KEY", "command", "post", "send"]

REQUIRED = "isogloss.backends.vllm.plugin.required.Required"
PLANS, KEY = "isogloss.backends.vllm.plugin.plans.Plans", "sesame"
OPTIONS = (
    "--dtype float32 --enforce-eager --max-model-len 256 --max-num-seqs 8 --seed 0 --kv-cache-memory-bytes 67108864 "
    "--block-size 32 --enable-scale-out"
)
# As `vllm serve --api-server-count 2` starts it; the command itself does not know a vLLM that is named otherwise.
FRONTS = """
from vllm.entrypoints.cli.serve import run_multi_api_server
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

run_multi_api_server(make_arg_parser(FlexibleArgumentParser()).parse_args())
"""
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def command(family, port, *, fronts=1, **variables):
    """The server's command line and environment.

    Args:
        family: one of `checkpoints.FAMILIES`.
        port: to listen on.
        fronts: processes that take requests.
        variables: of the environment.
    """
    arguments = ["--model", str(checkpoint(family)), "--served-model-name", "tiny", "--port", str(port)]
    arguments += [*OPTIONS.split(), "--worker-extension-cls", REQUIRED, "--middleware", PLANS, "--chat-template", CHAT]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ISOGLOSS_", "VLLM_"))}
    own = {
        "ISOGLOSS_ADMIN_KEY": KEY,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environ = kept | own | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} | variables
    start = (
        ["-m", "vllm.entrypoints.openai.api_server"] if fronts == 1 else ["-c", FRONTS, f"--api-server-count={fronts}"]
    )
    return [sys.executable, *start, *arguments], environ


def send(port, path, body=None, *, method=None, key=None):
    """Send JSON, given as fields or as it is; return the status and the text that comes back."""
    body = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - our own
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(port, path, **fields):
    """Send JSON, and return what comes back, which is no refusal."""
    status, text = send(port, path, fields)
    assert status == 200, text
    return json.loads(text)
