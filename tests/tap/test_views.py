"""What a view is, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.store import StoreSpec
from linkedout_lightning.tap import VideoLLMTap, View
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.identity import digest_of_settings
from linkedout_lightning.tap.preparing import slot_names
from linkedout_lightning.tap.sink import store_spec
from linkedout_lightning.tap.views import parse_views

Tiny = Callable[[str], Path]
VIEWS: dict[str, Any] = {
    "watch": {"prompt": "What is {title} about?", "groups": ["visual:2", "text", "last"]},
    "cover": View("", sees="cover"),
    "read": {"prompt": "{title}, {tags}", "sees": "nothing"},
}


def test_slots_columns_and_sources_are_those_of_the_views(tiny_video_llm: Tiny) -> None:
    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm("idefics3")), layers=[2], views=VIEWS)
    assert tap.slots == (
        *("watch/visual:2/0", "watch/visual:2/1", "watch/text", "watch/last"),
        *("cover/visual", "cover/last"),
        *("read/text", "read/last"),
    )
    assert tap.columns == ("title", "tags")
    assert tap.sources == {"video", "cover"}
    only_read = VideoLLMTap(
        tap.model, processor=tap.prepare.processor, views={"read": VIEWS["read"]}
    )
    assert only_read.sees
    assert only_read.sources == set()
    text = VideoLLMTap.from_pretrained(
        str(tiny_video_llm("llama")), views={"read": VIEWS["read"]}, layers=[0]
    )
    assert (text.slots, text.sources) == (("read/text", "read/last"), set())
    assert VideoLLMTap(tap.model, processor=tap.prepare.processor).sources == {"video"}


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({}, r"`views` is \{\}; give one or more"),
        ({"a/b": {}}, r"the name 'a/b'; a name is of letters"),
        ({"": {}}, r"the name ''"),
        ({"a": {"promt": "x", "see": 1}}, r"'a' has the keys promt, see; the keys are prompt, s"),
        ({"a": "{title}"}, r"the view 'a' is '\{title\}'; give a mapping"),
        ({"a": {"sees": "audio"}}, r"'a': `sees` is 'audio'; give one of video, cover, nothing"),
        ({"a": {"prompt": None}}, r"'a': `prompt` is None; give a text"),
        ({"a": {"prompt": "{title"}}, r"'a': `prompt` is '\{title'"),
        ({"a": {"prompt": "{a.b}"}}, r"a field is a column's name in braces"),
        ({"a": {"groups": ["visul"]}}, r"'a': `groups` holds 'visul'; the groups are"),
        ({"a": {"groups": 3}}, r"'a': `groups` is 3; give a list"),
        ({"a": {"groups": "last, last"}}, r"'a': `groups` holds 'last' twice"),
        ({"a": {"prompt": "x", "groups": ["title"]}}, r"'a': .*'title', but .* has no \{title\}"),
        ({"a": {"sees": "nothing", "groups": ["visual:2"]}}, r"'a': .*`sees` is 'nothing'"),
        ({"a": {"sees": "nothing", "prompt": "Hi."}}, r"'a': .*all items would be the same"),
    ],
)
def test_each_fault_has_its_sentence(views: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_views(views)


def test_faults_that_only_the_model_shows(tiny_video_llm: Tiny) -> None:
    folder = str(tiny_video_llm("llama"))
    with pytest.raises(ConfigError, match="the view 'watch' sees the video, but the model only re"):
        VideoLLMTap.from_pretrained(folder, views=VIEWS)
    with pytest.raises(ConfigError, match="give `views`, or `prompt`"):
        VideoLLMTap.from_pretrained(folder, views=VIEWS, prompt="{tags}")
    generating = {"a": View(sees="nothing"), "b": View(sees="nothing", groups=["generated:2"])}
    with pytest.raises(ConfigError, match="padding_side"):
        VideoLLMTap.from_pretrained(folder, views=generating, padding_side="right")
    tap = VideoLLMTap.from_pretrained(folder, views=generating)
    with pytest.raises(ConfigError, match="LlamaModel has no head"):
        VideoLLMTap(tap.model.model, processor=tap.prepare.processor, views=generating)


def test_options_name_the_value() -> None:
    config = ExtractConfig(model="m", out="o", views={"a": {"sees": "cover"}})
    assert config.views == {"a": {"sees": "cover"}}
    with pytest.raises(ConfigError, match=r"the view 'a': `sees` is 'sound'"):
        ExtractConfig(model="m", out="o", views={"a": {"sees": "sound"}})
    for more in ({"prompt": "{tags}"}, {"groups": ("last",)}):
        with pytest.raises(ConfigError, match="give `views`, or `prompt`"):
            ExtractConfig(model="m", out="o", views={"a": {}}, **more)  # type: ignore[arg-type]


def test_the_example_of_the_documentation_is_understood() -> None:
    text = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text(encoding="utf-8")
    example = yaml.safe_load(text.partition("```yaml")[2].partition("```")[0])
    views = parse_views(ExtractConfig(out="features", **example).views)
    seen = {"watch": "video", "mood": "video", "cover": "cover", "read": "nothing"}
    assert {name: view.sees for name, view in views.items()} == seen
    assert slot_names(views) == (
        *(f"watch/visual:4/{span}" for span in range(4)),
        *("watch/text", "watch/last", "mood/last"),
        *("cover/visual", "cover/last", "read/text", "read/last"),
    )


def test_views_are_part_of_what_a_store_is(tiny_video_llm: Tiny) -> None:
    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm("idefics3")), layers=[2], views=VIEWS)
    spec = store_spec(tap)
    assert StoreSpec.from_json(spec.to_json()) == spec
    assert not spec.differences(store_spec(tap))

    def changed(**views: Any) -> list[str]:
        folder = str(tiny_video_llm("idefics3"))
        other = VideoLLMTap.from_pretrained(folder, layers=[2], views=VIEWS | views)
        now = store_spec(other)
        return [text for text in spec.differences(now) if not text.startswith("slots")]

    watch = VIEWS["watch"]
    assert changed(watch=watch | {"prompt": "{title}"}) == [
        "views.watch.prompt: 'What is {title} about?' in the store, '{title}' now"
    ]
    assert changed(watch=watch | {"sees": "cover"}) == [
        "views.watch.sees: 'video' in the store, 'cover' now"
    ]
    assert changed(cover=View("", sees="cover", groups=["visual"])) == [
        "views.cover.groups: ('visual', 'last') in the store, ('visual',) now"
    ]
    assert changed(more={"prompt": "x"})[0] == "views.more.prompt: None in the store, 'x' now"


def test_one_prompt_is_described_as_before_there_were_views(tiny_video_llm: Tiny) -> None:
    from transformers import AutoProcessor

    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm("idefics3")), prompt="{title}!")
    spec = store_spec(tap)
    assert (spec.prompt, spec.groups) == ("{title}!", ("visual", "text", "last"))
    assert list(spec.to_json()) == [
        *("model", "revision", "layers", "slots", "groups", "hidden_size", "prompt", "sampler"),
        *("dtype", "versions", "extra"),
    ]
    assert list(spec.extra) == [
        *("layer_convention", "max_chars", "dtype", "attention", "chat_template", "processor"),
    ]
    given = AutoProcessor.from_pretrained(tiny_video_llm("idefics3"))
    assert spec.extra["processor"] == digest_of_settings([given.to_dict(), {}])
    assert spec.extra["chat_template"] == digest_of_settings(given.chat_template)
