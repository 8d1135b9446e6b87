"""How a checkpoint's files are read: no code of theirs runs, and what a library cannot read is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from isogloss.errors import IsoglossError, ModelError
from isogloss.files import read_json
from isogloss.hub import asking_hub, refuse_revision_of_path, require_hub_name, split_revision

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = ["Checkpoint", "find_checkpoint", "reading", "require_embedded"]

_ADAPTER = "adapter_config.json"
_PROCESSOR_TEMPLATE = "chat_template.json"
_LONGEST = 300  # characters of a library's message


class Checkpoint(NamedTuple):
    """Where a checkpoint is read from.

    Attributes:
        source: folder or hub id.
        revision: commit of the hub's repository; None for a folder.
    """

    source: str
    revision: str | None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of every call that reads from it: without the last, transformers asks whether its code may run."""
        return {**({} if self.revision is None else {"revision": self.revision}), "trust_remote_code": False}

    def config(self) -> PretrainedConfig:
        """Read its configuration; inside `reading`."""
        from transformers import AutoConfig  # noqa: PLC0415 - seconds, and most of this file needs none of it

        config: PretrainedConfig = AutoConfig.from_pretrained(self.source, **self.options)
        return config

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Read its tokenizer; inside `reading`."""
        from transformers import AutoTokenizer  # noqa: PLC0415 - as above

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.source, **self.options)
        if not tokenizer.chat_template and (template := self._of_processor()) is not None:
            tokenizer.chat_template = template
        return tokenizer

    def folder(self) -> Path:
        """Return where its files lie, of a hub id those that this machine has kept; inside `reading`."""
        from transformers.utils import CONFIG_NAME  # noqa: PLC0415 - as above
        from transformers.utils.hub import cached_file  # noqa: PLC0415 - as above

        config = cached_file(self.source, CONFIG_NAME, revision=self.revision, local_files_only=True)
        return Path(str(config)).parent

    def _of_processor(self) -> str | None:
        """Return the chat template that a multimodal checkpoint keeps with its processor; None for none."""
        from transformers.utils.hub import cached_file  # noqa: PLC0415 - as above

        revision = {} if self.revision is None else {"revision": self.revision}
        lenient = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
        path = cached_file(self.source, _PROCESSOR_TEMPLATE, **revision, **lenient)
        template = None if path is None else read_json(Path(path)).get("chat_template")
        return template if isinstance(template, str) else None


def find_checkpoint(name: str) -> Checkpoint:
    """Find a checkpoint, and, of a hub id, the commit that its branch, tag or commit after ``@`` names now.

    All of a checkpoint is then read from that commit, though the branch may move meanwhile. Inside `reading`.

    Raises:
        ModelError: the name can only be a path, and nothing is there, or is a path with a revision; or the repository
            holds an adapter alone.
        OSError: the hub does not give it.
    """
    from transformers.utils import CONFIG_NAME  # noqa: PLC0415 - a second, and most of this file needs none of it
    from transformers.utils.hub import cached_file, extract_commit_hash  # noqa: PLC0415 - as above

    refuse_revision_of_path(name, "model", error=ModelError)
    source, revision = split_revision(name)
    if Path(source).exists():
        return Checkpoint(source, None)
    require_hub_name(source, "model", error=ModelError)
    try:
        config = cached_file(source, CONFIG_NAME, revision=revision)
    except OSError:
        with suppress(OSError):
            if cached_file(source, _ADAPTER, revision=revision):
                raise _adapter(name) from None
        raise
    return Checkpoint(source, extract_commit_hash(config, None))


def _adapter(name: str) -> ModelError:
    return ModelError(
        f"cannot load model {name!r}: it is a LoRA adapter ({_ADAPTER}), which adds to a model; merge it first, "
        "with peft's merge_and_unload() and save_pretrained(FOLDER), and give that folder"
    )


@contextmanager
def reading(name: str, *, expected: str) -> Iterator[None]:
    """Turn whatever a library raises about a checkpoint into a ModelError of one line.

    Args:
        name: of the checkpoint, a hub id or a folder.
        expected: what to give instead, which ends the message.

    Raises:
        ModelError: the checkpoint cannot be read, is an adapter, or needs code of its own.
    """
    folder = Path(name)
    if (folder / _ADAPTER).is_file():
        raise _adapter(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"cannot load model {name!r}: the folder holds no config.json; {expected}")
    if folder.is_file():
        raise ModelError(f"cannot load model {name!r}: it is a file; {expected}")
    unreachable = None
    try:
        with nullcontext() if folder.exists() else asking_hub() as unreachable:
            yield
    except IsoglossError:
        raise
    except Exception as error:  # libraries raise anything about files that are not as they expect
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"cannot load model {name!r}: it needs code of its own, which isogloss never runs; give a checkpoint "
                "that transformers loads by itself: see `isogloss models`"
            ) from error
        if unreachable:
            raise ModelError(
                f"cannot load model {name!r}: no such folder, {unreachable}, and this machine has not kept all of it; "
                f"fetch it where there is a network, as with `hf download {split_revision(name)[0]}`, or {expected}"
            ) from error
        where = "the folder exists" if folder.exists() else "no such folder, and the hub did not give it"
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot load model {name!r} ({where}): {first[:_LONGEST]}; {expected}") from error


def require_embedded(tokenizer: Any, n_embeddings: int, name: str) -> None:  # noqa: ANN401 - transformers' own
    """Refuse a tokenizer with a token that the model has no embedding for; on a GPU its use stops the process.

    Raises:
        ModelError: names the first of these tokens.
    """
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    # Classes of tokenizers add special tokens of their own, which no text gives that does not write them out.
    unused = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} - used
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= n_embeddings and i not in unused)
    if beyond:
        raise ModelError(
            f"the tokenizer of {name!r} has {len(beyond)} tokens that the model has no embedding for ({beyond[0][1]!r} "
            f"is {beyond[0][0]}, and the model has {n_embeddings:,}); give the tokenizer that the model was trained "
            "with, or resize the embeddings and save both"
        )
