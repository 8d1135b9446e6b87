"""Other days than today."""

from __future__ import annotations

from datetime import datetime

from transformers.utils import chat_template_utils

from isogloss.backends import chat_template

DATED = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
"""A chat template that writes the date."""


def set_day(monkeypatch, day):
    """Let it be a day, such as 2026-08-05, one second before midnight."""

    class Day(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat(f"{day}T23:59:59").replace(tzinfo=tz)

    monkeypatch.setattr(chat_template, "datetime", Day)
    monkeypatch.setattr(chat_template_utils, "datetime", Day)
