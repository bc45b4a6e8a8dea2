"""What every page must hold to: it is well formed, and asks for nothing from outside."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree


class Page(HTMLParser):
    """Tags, attributes and text; ``open`` is empty at the end of a page that closes its tags."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.attributes, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read_alone(html: str) -> Page:
    """The page, read; fails where it is not well formed or refers to anything but itself."""
    page = Page()
    page.feed(html)
    assert page.open == []
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert set(re.findall(r"https?://[^\"' )]+", html)) <= {"http://www.w3.org/2000/svg"}
    anchors = {value for _, name, value in page.attributes if name == "id"}
    links = {value[1:] for _, name, value in page.attributes if name == "href" and value[0] == "#"}
    assert links <= anchors
    return page


def pictures_inside_their_frames(html: str) -> int:
    """Count of the pictures; fails where one is no XML or leaves its frame."""
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    for text in pictures:
        picture = ElementTree.fromstring(text)
        width, height = map(float, picture.get("viewBox").split()[2:])
        for element in picture.iter():
            for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                if element.get(name) is not None:
                    assert -1 <= float(element.get(name)) <= limit + 1
    return len(pictures)
