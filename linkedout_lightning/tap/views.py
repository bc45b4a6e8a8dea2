"""Views: the questions that a tap asks of every item.

A view is one prompt, what the model looks at while it reads it, and the tokens that are kept. One
run may have several: the video with a question, the cover image alone, the title alone. Their
slots stand side by side in the store, which knows nothing of modalities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.prompts import PromptTemplate

if TYPE_CHECKING:
    from linkedout_lightning.tap.groups import Group

Sees = Literal["video", "cover", "nothing"]
"""What is shown to the model beside the prompt."""

SOURCES = ("video", "cover")
"""What an item may have to be looked at."""

USUAL_PROMPT, USUAL_GROUPS = "{title}", ("visual", "text", "last")
"""What a tap asks if nothing is said."""

_SEES = (*SOURCES, "nothing")
_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class View:
    """One prompt and what it is asked about.

    An item has a view's slots as far as it has what they are made of: without the video (or cover)
    its text is read alone, without text the video is watched alone, and an item with neither has
    none of them.

    Args:
        prompt: Template with column names in braces; ``""`` for none.
        sees: ``"video"``, ``"cover"`` (the item's cover image, as a video of one frame) or
            ``"nothing"`` (the prompt alone).
        groups: Tokens averaged into each slot, as `VideoLLMTap` takes them; by default ``visual``
            if it sees, ``text`` if there is a prompt, and ``last``.

    Raises:
        ConfigError: If no item could have one of the slots, or none of these is understood.

    Example:
        >>> View("What is {title} about?").groups
        ('visual', 'text', 'last')
        >>> View("", sees="cover").groups
        ('visual', 'last')
    """

    prompt: str = USUAL_PROMPT
    sees: Sees = "video"
    groups: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise ConfigError(f"`prompt` is {self.prompt!r}; give a text, in quotes")
        if self.sees not in _SEES:
            raise ConfigError(f"`sees` is {self.sees!r}; give one of {', '.join(_SEES)}")
        template = PromptTemplate(self.prompt)
        if self.sees == "nothing" and not template.columns:
            raise ConfigError(
                f"`prompt` is {self.prompt!r}, which has no column in braces, and `sees` is "
                "'nothing': all items would be the same; name a column such as {title}"
            )
        groups = self.groups
        if isinstance(groups, str):  # "visual:4, last", as on the command line
            groups = [name.strip() for name in groups.split(",") if name.strip()]
        if not isinstance(groups, Sequence):
            raise ConfigError(f"`groups` is {groups!r}; give a list such as [visual, last]")
        object.__setattr__(self, "groups", tuple(groups) or self._usual_groups())
        object.__setattr__(self, "groups", tuple(group.name for group in self.parsed_groups))
        self._check_groups(template)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the item table that the prompt wants."""
        return PromptTemplate(self.prompt).columns

    @property
    def parsed_groups(self) -> tuple[Group, ...]:
        """The token groups."""
        # Groups import torch, which the options of the command line do without.
        from linkedout_lightning.tap.groups import parse_groups

        return parse_groups(self.groups)

    def to_json(self) -> dict[str, Any]:
        """All that decides its features."""
        return {"prompt": self.prompt, "sees": self.sees, "groups": list(self.groups)}

    def _usual_groups(self) -> tuple[str, ...]:
        seen = ("visual",) if self.sees != "nothing" else ()
        return (*seen, *(("text",) if self.prompt.strip() else ()), "last")

    def _check_groups(self, template: PromptTemplate) -> None:
        kinds = {group.kind for group in self.parsed_groups}
        if "title" in kinds and "title" not in template.columns:
            raise ConfigError(
                f"`groups` holds 'title', but the prompt {self.prompt!r} has no {{title}}; "
                "put it into the prompt or leave the group out"
            )
        if "visual" in kinds and self.sees == "nothing":
            raise ConfigError(
                f"`groups` = {list(self.groups)} holds visual tokens, but `sees` is 'nothing'; "
                "leave the group out, or let the view see the video or the cover"
            )


def parse_views(views: Mapping[str, View | Mapping[str, Any]]) -> dict[str, View]:
    """Read views by name, as a YAML file gives them.

    Args:
        views: `View` objects, or mappings with some of their fields.

    Returns:
        The views in the order given.

    Raises:
        ConfigError: For a name or a view that is of no use; the message names both.

    Example:
        >>> parse_views({"read": {"prompt": "{title}", "sees": "nothing"}})["read"].groups
        ('text', 'last')
    """
    if not isinstance(views, Mapping) or not views:
        raise ConfigError(f"`views` is {views!r}; give one or more views, each by its name")
    return {_name(name): _view(name, value) for name, value in views.items()}


def views_of(
    views: Mapping[str, View | Mapping[str, Any]] | None,
    *,
    prompt: str,
    groups: Sequence[str],
    sees: bool,
) -> dict[str, View]:
    """The views of a tap: those given, or an unnamed one of a prompt and groups.

    Args:
        views: Several views, or None.
        prompt: The prompt of the only one.
        groups: Its groups.
        sees: Whether the model does.

    Raises:
        ConfigError: Both are given, or a view is of no use with this model.
    """
    if views is None:
        from linkedout_lightning.tap.groups import parse_groups

        return {"": View(prompt, groups=[group.name for group in parse_groups(groups)])}
    check_alone(views, prompt=prompt, groups=groups)
    parsed = parse_views(views)
    if not sees and (name := next((n for n in parsed if parsed[n].sees != "nothing"), "")):
        raise ConfigError(
            f"the view {name!r} sees the {parsed[name].sees}, but the model only reads text; "
            "give it `sees: nothing`, or take a model that sees"
        )
    return parsed


def check_alone(views: Any, *, prompt: str, groups: Sequence[str] | None) -> None:
    """Refuse views beside a prompt or groups of a view without a name.

    Raises:
        ConfigError: Both are given.
    """
    usual = groups is None or tuple(groups) == USUAL_GROUPS
    if views and (prompt != USUAL_PROMPT or not usual):
        raise ConfigError(
            f"`views` has prompts and groups of its own, but `prompt` is {prompt!r} and `groups` "
            f"{groups!r}; give `views`, or `prompt` and `groups`"
        )


def asked(views: Mapping[str, View]) -> dict[str, Any]:
    """The views as a fingerprint has them; an unnamed one as before there were views."""
    if "" not in views:
        named = {name: view.to_json() for name, view in views.items()}
        return {"groups": [], "prompt": "", "views": named}
    return {"groups": list(views[""].groups), "prompt": views[""].prompt}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"`views` has the name {name!r}; a name is of letters, digits, '_' and '-', as it "
            "stands before the slash in names of slots such as 'watch/visual'"
        )
    return name


def _view(name: str, value: View | Mapping[str, Any]) -> View:
    if isinstance(value, View):
        return value
    known = [field.name for field in fields(View)]
    if not isinstance(value, Mapping):
        raise ConfigError(f"the view {name!r} is {value!r}; give a mapping of {', '.join(known)}")
    if unknown := [str(key) for key in value if key not in known]:
        raise ConfigError(
            f"the view {name!r} has the keys {', '.join(unknown)}; the keys are {', '.join(known)}"
        )
    try:
        return View(**value)
    except ConfigError as error:
        raise ConfigError(f"the view {name!r}: {error}") from error
