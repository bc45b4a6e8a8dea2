"""Templates over an item's columns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.prompts import PromptTemplate


def test_fields_say_where_values_stand() -> None:
    filled = PromptTemplate("{{x}} {title}, {tags}; {title}").fill({"title": "A cat", "tags": "t"})
    assert filled.text == "{x} A cat, t; A cat"
    assert filled.fields == {"title": [(4, 9), (14, 19)], "tags": [(11, 12)]}


@pytest.mark.parametrize("value", [None, "", "   \n", "absent"])
def test_blank_and_absent_values_are_no_text(value: str | None) -> None:
    columns = {} if value == "absent" else {"title": value}
    filled = PromptTemplate("About {title}.").fill(columns)  # type: ignore[arg-type]
    assert filled.text == "About ."
    assert not filled.fields


@given(st.text())
def test_any_value_fits_and_is_found(value: str) -> None:
    filled = PromptTemplate("[{title}]").fill({"title": value})
    for start, end in filled.fields.get("title", []):
        assert filled.text[start:end] == value.encode("utf-8", "replace").decode().strip()
    filled.text.encode()  # no lone surrogates


def test_values_are_cut() -> None:
    assert PromptTemplate("{title}", max_chars=3).fill({"title": "abcdef"}).text == "abc"


def test_control_tokens_cannot_come_from_data() -> None:
    forbidden = re.compile("<image>")
    filled = PromptTemplate("{title}").fill(
        {"title": "a<image>b<ima<image>ge>"}, forbidden=forbidden
    )
    assert "<image>" not in filled.text
    assert filled.text.startswith("a b")
    # The template's own are the user's business.
    assert (
        PromptTemplate("<image>{title}").fill({"title": "x"}, forbidden=forbidden).text
        == "<image>x"
    )


def test_columns_each_once() -> None:
    assert PromptTemplate("{b} {a} {b}").columns == ("b", "a")
    assert PromptTemplate("no field").columns == ()


@pytest.mark.parametrize(
    "template", ["{title", "title}", "{}", "{0}", "{title!r}", "{title:>8}", "{a.b}", "{a[0]}"]
)
def test_bad_templates_are_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="`prompt` is"):
        PromptTemplate(template)
