"""Chat templates of the forms that published tokenizers have, with the special tokens of the tests' tokenizer."""

from __future__ import annotations

_CHATML = (
    "{%- for message in messages %}{{- '<bos>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' %}ANSWER{%- else %}{{- message.content + '<eos>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<bos>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
_THINKING = "{{- '<think>\n\n</think>\n\n' + message.content + '<eos>\n' }}"
_MARKED = "{% generation %}{{- message.content + '<eos>' }}{% endgeneration %}{{- '\n' }}"

CHATML = _CHATML.replace("ANSWER", _THINKING)
"""With a switch for thinking, and an empty block of it before an answer, as Qwen3's."""

MARKED = _CHATML.replace("ANSWER", _MARKED)
"""The same, which marks what the assistant writes."""

TRIMMED = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>\n' }}"
    "{{ message.content | trim + '<eos>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Takes white space off the ends of messages, as Phi's and Llama's."""

DATED = "{{ '<bos>system\nToday is ' + strftime_now('%Y-%m-%d') + '.<eos>' }}" + TRIMMED
"""Begins with the date, as that of GPT-OSS."""
