"""What requests and answers look like: strict models, of which the OpenAPI document is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

MAX_ID = 512

ItemId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]
Text = Annotated[str, StringConstraints(max_length=10_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Path = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
K = Annotated[int, Field(ge=1, description="How many items, up to the server's `max_k`.")]
Model = Annotated[
    Name | None, Field(description="Which of the server's models; by default the first.")
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


# ---- requests -----------------------------------------------------------------------------------


class RecommendRequest(_Strict):
    """What comes next for one user."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["v12", "v7"], "k": 5}]})

    history: list[ItemId] = Field(
        description="Ids of what the user had, the latest last. Ids that the model does not know "
        "are passed over and named in the answer's `unknown`."
    )
    k: K = 10
    exclude_seen: bool = Field(True, description="Leave out the items of the history.")
    candidates: list[ItemId] | None = Field(None, description="Rank these items only.")
    deny: list[ItemId] = Field(default=[], description="Items to leave out.")
    if_unknown: Literal["refuse", "popular"] = Field(
        "refuse",
        description="What becomes of a history without any item that the model knows: a 4xx, or "
        "the most popular items, with `fallback` true.",
    )
    columns: bool = Field(False, description="Give each item's texts, such as its title.")
    model: Model = None


class SimilarRequest(_Strict):
    """Items like one item."""

    item: ItemId
    k: K = 10
    layer: int | None = Field(
        None, description="Compare what this layer of the video LLM sees; by default all of them."
    )
    columns: bool = False
    model: Model = None


class NewItem(_Strict):
    """An item to add, by one of its vector, its features and its video."""

    id: ItemId
    vector: list[FiniteFloat] | None = Field(None, description="Item vector, (H,).")
    features: list[list[list[FiniteFloat]]] | None = Field(
        None, description="Layers of the video LLM, (L, S, D), as a feature store has them."
    )
    mask: list[bool] | None = Field(None, description="Slots of the features that hold something.")
    video: Path | None = Field(None, description="File in the server's folder of videos.")
    columns: dict[Name, Text] = Field(default={}, description="Texts, such as the title.")

    @property
    def kind(self) -> Literal["vector", "features", "video"]:
        """By what it is given."""
        if self.vector is not None:
            return "vector"
        return "features" if self.features is not None else "video"

    @model_validator(mode="after")
    def _one_kind(self) -> NewItem:
        given = [
            name for name in ("vector", "features", "video") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"an item needs one of `vector`, `features` and `video`; this has {given or 'none'}"
            )
        if self.mask is not None and self.features is None:
            raise ValueError("`mask` belongs to `features`")
        return self


class AddRequest(_Strict):
    """Items to add: all or none."""

    items: list[NewItem] = Field(min_length=1)
    replace: bool = Field(False, description="Whether ids that are there get a new vector.")
    durable: bool = Field(False, description="Also write them into the bundle's folder.")
    model: Model = None


class SwapRequest(_Strict):
    """Another bundle for a model."""

    bundle: Path | None = Field(
        None,
        description="Folder in the server's folder of bundles; by default the present one is read "
        "again.",
    )
    model: Model = None


# ---- answers ------------------------------------------------------------------------------------


class Scored(BaseModel):
    """One item of an answer."""

    id: str
    score: float
    columns: dict[str, str] | None = None


class RecommendAnswer(BaseModel):
    """Items, the best first; fewer than k where no more are left."""

    model: str
    fingerprint: str = Field(description="Of the bundle that answered.")
    items: list[Scored]
    unknown: list[str]
    fallback: bool = Field(description="No item of the history is known: these are popular ones.")


class SimilarAnswer(BaseModel):
    """Items by the cosine of their vectors, the most similar first."""

    model: str
    fingerprint: str
    items: list[Scored]


class Clip(BaseModel):
    """Where an item's clip or picture is."""

    address: str
    type: str = Field(description="Such as video/mp4.")


class ItemAnswer(BaseModel):
    """What is known of an item."""

    model: str
    id: str
    columns: dict[str, str]
    gates: dict[int, float] | None = Field(description="Weight of each layer in its vector.")
    clip: Clip | None


class ListedItem(BaseModel):
    """An item of the list."""

    id: str
    title: str | None
    clip: Clip | None


class ItemsAnswer(BaseModel):
    """A part of the catalogue."""

    model: str
    total: int = Field(description="How many fit the query.")
    items: list[ListedItem]


class ChangedAnswer(BaseModel):
    """The catalogue after a change."""

    model: str
    fingerprint: str
    items: int


class ModelAnswer(BaseModel):
    """One of the server's models."""

    name: str
    fingerprint: str
    items: int
    dim: int
    dtype: str
    index: str
    max_len: int
    sequence: str
    layers: list[int]
    similar_by_layer: bool
    new_items_from_features: bool
    generation: int


class HealthAnswer(BaseModel):
    """That the server is well."""

    status: Literal["ok"]
    models: dict[str, int] = Field(description="Items by model.")


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    where: str
    reason: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
    errors: list[Fault] = []
