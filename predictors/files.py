"""What is wrong with a model's file."""

from __future__ import annotations


class UnreadableModel(Exception):
    """The file holds no model of its format; the message says what is wrong."""
