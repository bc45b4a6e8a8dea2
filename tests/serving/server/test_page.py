"""The pages in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import Browser, installed
from served_world import LAYERS, Served

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium is installed")

_IDS = "[...document.querySelectorAll('{} .card')].map((card) => card.dataset.id)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = installed()
    assert program is not None
    with Browser(program) as found:
        yield found


def _shown(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(_IDS.format(selector))
    return found


def _column(served: Served, model: str, history: list[str]) -> list[str]:
    reply: dict[str, Any] = served.recommend(history, 12, model=model, if_unknown="popular").json
    return [item["id"] for item in reply["items"]]


def test_pick_items_and_compare_models(served: Served, browser: Browser) -> None:
    browser.open(served.address + "/")
    assert _shown(browser, "#picks")[:3] == ["v001", "v002", "v003"]
    assert _shown(browser, "[data-model=linkedout]")[:2] == ["v060", "v059"]  # popular
    # A title with markup in it is shown as it is.
    assert browser.run("document.querySelector('#picks .title').textContent") == "Film 1 <b>&"

    browser.click("#picks [data-id=v002]")
    browser.click("#picks [data-id=v005]")
    browser.wait_for("location.hash === '#v002,v005'")
    for model in ("linkedout", "id"):
        expected = _column(served, model, ["v002", "v005"])
        browser.wait_for(
            f"{_IDS.format(f'[data-model={model}]')}.join() === '{','.join(expected)}'"
        )
    assert _shown(browser, "#history") == ["v002", "v005"]
    assert browser.run("document.querySelectorAll('#picks [aria-pressed=true]').length") == 2

    browser.click("#history [data-id=v002]")
    browser.wait_for("location.hash === '#v005'")
    assert browser.faults == []
    assert all(address.startswith((served.address, "data:")) for address in browser.requested)


def test_clips_play(served: Served, browser: Browser) -> None:
    browser.open(served.address + "/")
    video = "document.querySelector('#picks [data-id=v001] video')"
    browser.wait_for(f"{video}.currentTime > 0 && {video}.videoWidth === 64 && !{video}.paused")
    assert browser.run("document.querySelector('#picks [data-id=v010] video')") is None


def test_one_item_by_its_layers(served: Served, browser: Browser) -> None:
    browser.open(served.address + "/#v004")
    column = _column(served, "linkedout", ["v004"])
    browser.wait_for(f"{_IDS.format('[data-model=linkedout]')}.join() === '{','.join(column)}'")
    browser.click("[data-model=linkedout] .card")
    item = column[0]
    browser.wait_for("document.querySelectorAll('#similar .card').length === 12")
    gates = served.get(f"/items/{item}").json["gates"]
    words = browser.run("document.querySelector('.gates').innerText")
    for layer in LAYERS:
        assert f"layer {layer}" in words
        assert f"{100 * gates[str(layer)]:.1f} %" in words
    for place, layer in enumerate((None, *LAYERS), 1):
        browser.click(f"#about .bar button:nth-child({place})")
        body = {"item": item, "k": 12, "layer": layer}
        expected = [one["id"] for one in served.post("/similar", body).json["items"]]
        browser.wait_for(f"{_IDS.format('#similar')}.join() === '{','.join(expected)}'")

    browser.click("[data-model=id] .card")
    browser.wait_for("document.querySelector('#about').innerText.includes('has no layers')")
    assert browser.faults == []


def test_items_are_searched_for(served: Served, browser: Browser) -> None:
    browser.open(served.address + "/")
    browser.click("#query")
    browser.send("Input.insertText", text="film 33")
    browser.wait_for(f"{_IDS.format('#picks')}.join() === 'v033'")
    assert browser.faults == []


def test_the_page_of_the_api(served: Served, browser: Browser) -> None:
    browser.open(served.address + "/docs")
    assert browser.run("document.querySelectorAll('details').length") == len(
        [method for path in served.get("/openapi.json").json["paths"].values() for method in path]
    )
    browser.click("details summary")
    body = '{"history": ["v001"], "k": 2}'
    browser.run(f"document.querySelector('details textarea').value = '{body}'")
    browser.click("details button")
    browser.wait_for("document.querySelector('details pre').innerText.startsWith('200')")
    assert browser.faults == []
