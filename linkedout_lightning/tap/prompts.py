"""Prompts: a template over an item's columns, and the conversation around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from linkedout_lightning.errors import ConfigError

Span = tuple[int, int]
"""Characters from ``start`` up to ``end``."""


@dataclass(frozen=True)
class Prompt:
    """A template filled in for one item.

    Attributes:
        text: The filled template.
        fields: Where each column's value stands in ``text``; blank ones are left out.
    """

    text: str
    fields: dict[str, list[Span]]


class PromptTemplate:
    """A template such as ``"Title: {title}. Tags: {tags}"``.

    Args:
        template: Text with column names in braces; ``{{`` and ``}}`` stand for braces.
        max_chars: Values are cut at this many characters, so that one absurd text cannot exhaust
            the memory of a batch.

    Raises:
        ConfigError: If the template is malformed, or a field is not a plain column name.

    Example:
        >>> PromptTemplate("Title: {title}").fill({"title": "A cat"}).fields
        {'title': [(7, 12)]}
    """

    def __init__(self, template: str, *, max_chars: int = 4000) -> None:
        try:
            parsed = list(Formatter().parse(template))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"`prompt` is {template!r}: {error}") from error
        for _, field, spec, conversion in parsed:
            if field is not None and (not field.isidentifier() or spec or conversion):
                raise ConfigError(
                    f"`prompt` is {template!r}: a field is a column's name in braces, such as "
                    "{title}; write {{ and }} for braces that are text"
                )
        if max_chars < 1:
            raise ConfigError(f"`max_chars` is {max_chars}; give 1 or more")
        self.template = template
        self.max_chars = max_chars
        self._parts = [(literal, field) for literal, field, _, _ in parsed]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the template wants, each once."""
        return tuple(dict.fromkeys(field for _, field in self._parts if field))

    def fill(
        self, columns: Mapping[str, str], *, forbidden: re.Pattern[str] | None = None
    ) -> Prompt:
        """Put an item's values into the template.

        Args:
            columns: Values by column; absent, ``None`` and blank values count as no text.
            forbidden: What must not come from data, such as the tokenizer's control tokens: a
                title that holds ``<image>`` would otherwise claim a picture of its own.
        """
        pieces: list[str] = []
        fields: dict[str, list[Span]] = {}
        length = 0
        for literal, field in self._parts:
            pieces.append(literal)
            length += len(literal)
            if field is None:
                continue
            value = self._clean(columns.get(field), forbidden)
            if value:
                fields.setdefault(field, []).append((length, length + len(value)))
            pieces.append(value)
            length += len(value)
        return Prompt("".join(pieces), fields)

    def _clean(self, value: str | None, forbidden: re.Pattern[str] | None) -> str:
        if value is None:
            return ""
        # Lone surrogates, which broken tables hold, make tokenizers raise.
        text = str(value).encode("utf-8", "replace").decode("utf-8")[: self.max_chars]
        while forbidden is not None and (cleaned := forbidden.sub(" ", text)) != text:
            text = cleaned  # again, as a removal can join the halves of another token
        return text.strip()


@dataclass(frozen=True)
class Wrapping:
    """What stands around every prompt of one kind: placeholders, roles, control tokens."""

    before: str
    after: str
    special_tokens: bool  # whether the tokenizer adds its own start token


_SENTINEL = "linkedoutpromptgoeshere"


def wrap(processor: Any, *, placeholders: list[dict[str, str]], chat: bool) -> Wrapping:
    """Text around a prompt: the visual part first, so that the prompt's tokens attend to it.

    Args:
        processor: A Hugging Face processor or tokenizer.
        placeholders: The visual part as chat content, such as ``[{"type": "video"}]``.
        chat: Whether to use the chat template; else the placeholders' tokens just stand first.

    Raises:
        ConfigError: If the chat template drops the prompt, or there is no placeholder token.
    """
    if not chat:
        tokens = [_placeholder_token(processor, content["type"]) for content in placeholders]
        return Wrapping("".join(tokens), "", special_tokens=True)
    is_tokenizer = not hasattr(processor, "tokenizer")
    text = {"type": "text", "text": _SENTINEL}
    content: Any = _SENTINEL if is_tokenizer else [*placeholders, text]
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = rendered.rpartition(_SENTINEL)
    if not found:
        raise ConfigError(
            f"the chat template of {type(processor).__name__} drops the user's text; give "
            "chat_template=False to do without it"
        )
    bos = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    return Wrapping(before, after, special_tokens=not (bos and rendered.startswith(bos)))


def _placeholder_token(processor: Any, kind: str) -> str:
    token = getattr(processor, f"{kind}_token", None)
    if not isinstance(token, str):
        raise ConfigError(
            f"{type(processor).__name__} has neither a chat template nor a `{kind}_token`, so "
            f"there is no telling where the {kind} belongs in the prompt; give its chat template"
        )
    return token
