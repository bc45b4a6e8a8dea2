"""From items to the inputs of every view, and the place of each view's slots among all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.groups import Group
from linkedout_lightning.tap.inputs import InputBuilder
from linkedout_lightning.tap.prompts import PromptTemplate
from linkedout_lightning.tap.types import TapBatch, TapInput
from linkedout_lightning.tap.views import SOURCES, View

if TYPE_CHECKING:
    from linkedout_lightning.video import Frames


class Preparer:
    """Turns items into a `TapBatch` of all views; holds no model, so it travels to processes.

    Args:
        builders: One a view, all of one processor.
        sees: What each view looks at.

    Attributes:
        template: The prompt; of several views all prompts, one after the other, which tells how
            much text an item brings.
    """

    def __init__(self, builders: Sequence[InputBuilder], sees: Sequence[str]) -> None:
        self.builders = tuple(builders)
        self.sees = tuple(sees)
        self.template = builders[0].template
        if len(builders) > 1:
            self.template = PromptTemplate(
                "\n".join(builder.template.template for builder in builders),
                max_chars=self.template.max_chars,
            )

    def __call__(self, items: Sequence[TapInput]) -> TapBatch:
        """Build the inputs of each view.

        An item is in no bucket of a view of which it has nothing: neither what the view sees nor
        a text for its prompt.
        """
        buckets = []
        for index, (builder, sees) in enumerate(zip(self.builders, self.sees, strict=True)):
            shown = [replace(item, frames=looked_at(item, sees), cover=None) for item in items]
            buckets += [replace(bucket, view=index) for bucket in builder(shown).buckets]
        return TapBatch([item.item_id for item in items], buckets)

    @property
    def processor(self) -> Any:
        """The model's processor, or its tokenizer."""
        return self.builders[0].processor

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.builders[0].tokenizer

    def length_hint(self, item: TapInput) -> int:
        """Roughly how much text an item brings, in characters: for sorting items by length."""
        return len(self.template.fill(item.columns).text)

    def work_hint(self, item: TapInput) -> tuple[tuple[int, ...], ...]:
        """A key that sorts items of like frames and, among them, of like text together."""
        seen = [looked_at(item, source) for source in SOURCES if source in self.sees]
        shapes = [() if frames is None else frames.data.shape[:3] for frames in seen]
        return (*shapes, (self.length_hint(item),))


@dataclass(frozen=True)
class Place:
    """Where a view's features stand among all slots.

    Attributes:
        start: Its first slot.
        stop: The one past its last.
        generated: How many tokens it generates.
        generated_at: Place of their slot among the view's own; meaningless without any.
    """

    start: int
    stop: int
    generated: int
    generated_at: int


def looked_at(item: TapInput, sees: str) -> Frames | None:
    """What a view sees of an item."""
    if sees == "video":
        return item.frames
    return item.cover if sees == "cover" else None


def slot_names(views: Mapping[str, View]) -> tuple[str, ...]:
    """Names of all slots; those of an unnamed view are the groups' own."""
    return tuple(
        f"{name}/{slot}" if name else slot
        for name, view in views.items()
        for group in view.parsed_groups
        for slot in group.slots
    )


def places(views: Mapping[str, View]) -> tuple[Place, ...]:
    """Where the slots of each view stand."""
    found: list[Place] = []
    for view in views.values():
        groups = view.parsed_groups
        start = found[-1].stop if found else 0
        slots = [slot for group in groups for slot in group.slots]
        generated = [group for group in groups if group.kind == "generated"]
        found.append(
            Place(
                start=start,
                stop=start + len(slots),
                generated=sum(group.count for group in generated),
                generated_at=slots.index(generated[0].name) if generated else -1,
            )
        )
    return tuple(found)


def check_generation(groups: Sequence[Group], model: Any, *, padding_side: str) -> None:
    """Refuse generated tokens where a model cannot give them.

    Raises:
        ConfigError: It has no head, or prompts are padded on the right.
    """
    if not any(group.kind == "generated" for group in groups):
        return
    if padding_side == "right":
        raise ConfigError(
            "generating needs padding_side='left': after padding on the right a model goes on "
            "from padding"
        )
    can_generate = getattr(model, "can_generate", lambda: False)
    if not can_generate():
        raise ConfigError(
            f"`groups` asks for generated tokens, but {type(model).__name__} has no head "
            "to generate with; load it with its language-model head or leave the group out"
        )
