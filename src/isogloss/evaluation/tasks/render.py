"""Writes the prompt of an item for a model: as it is, or as one user message of the tokenizer's chat template."""

from __future__ import annotations

from isogloss.backends.chat_template import ChatTokenizer, TemplateDate, fill_template
from isogloss.evaluation.tasks.task import Item, Task

__all__ = ["continuations", "render", "uses_chat"]


def uses_chat(tokenizer: ChatTokenizer, task: Task) -> bool:
    """Whether prompts go through the chat template: the task asks for it and the tokenizer has one.

    Where it is true, the rendered text already holds every special token that
    the template wants, the first one included, so it must be tokenised with ``add_special_tokens=False``, or there
    are two beginnings of text; where it is false, with the tokenizer's default.
    """
    return task.chat and getattr(tokenizer, "chat_template", None) is not None


def render(tokenizer: ChatTokenizer, item: Item, task: Task, today: TemplateDate | None = None) -> str:
    """Return the text that the model reads before its answer; see `uses_chat` for how to tokenise it.

    It is the prompt, or the chat template's text up to where the assistant begins, with thinking off where the template
    has that switch (others ignore it) and with ``today`` as the date, where it writes one.
    """
    if not uses_chat(tokenizer, task):
        return item.prompt
    conversation = [{"role": "user", "content": item.prompt}]
    return fill_template(tokenizer, conversation, today or TemplateDate(), to_continue=True)


def continuations(tokenizer: ChatTokenizer, item: Item, task: Task) -> tuple[str, ...]:
    """Return the texts whose log-likelihood after `render` is to be measured: options in order, or one reference.

    Returns:
        With the task's delimiter in front where the prompt is plain and not empty; empty for generated answers.
    """
    texts = {"generated": (), "options": item.options, "reference": (item.reference,)}[task.scoring]
    delimiter = "" if uses_chat(tokenizer, task) or not item.prompt else task.delimiter
    return tuple(delimiter + text for text in texts)
