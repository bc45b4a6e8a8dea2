"""Clips in words: captions with clauses in any order, and a question about each attribute."""

from __future__ import annotations

import numpy as np

from linkedout_lightning.demo.world import ATTRIBUTES, NAMES, Clips

_EVENT = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "grows": "grows",
    "shrinks": "shrinks",
    "spins": "spins",
    "blinks": "blinks",
}
_SPEED = {"slow": "slowly", "fast": "quickly"}
_SCENE = {
    "beach": "on a beach",
    "forest": "in a forest",
    "city": "in a city",
    "space": "in space",
    "meadow": "on a meadow",
    "room": "in a room",
}
_LIGHT = {"day": "by day", "dusk": "at dusk", "night": "at night"}
_PACING = {"calm": "calm : no cut", "steady": "steady : one cut", "rapid": "rapid : three cuts"}
_CAMERA = {"still": "camera still", "pan": "camera pan", "zoom": "camera zoom"}

QUESTIONS: dict[str, str] = {
    "shape": "what shape ?",
    "color": "what color ?",
    "fill": "what fill ?",
    "size": "what size ?",
    "companion": "what companion ?",
    "companion_color": "what companion color ?",
    "scene": "what scene ?",
    "light": "what light ?",
    "event": "what event ?",
    "speed": "what speed ?",
    "pacing": "what pacing ?",
    "camera": "what camera ?",
}


def caption(words: dict[str, str], rng: np.random.Generator) -> str:
    """One sentence that tells all twelve attributes of a clip, its clauses in a random order.

    Args:
        words: Attribute -> value.
        rng: Decides the order.
    """
    clauses = [
        f"a {words['size']} {words['fill']} {words['color']} {words['shape']}",
        f"it {_EVENT[words['event']]} {_SPEED[words['speed']]}",
        f"beside a {words['companion_color']} {words['companion']}",
        f"{_SCENE[words['scene']]} {_LIGHT[words['light']]}",
        _PACING[words["pacing"]],
        _CAMERA[words["camera"]],
    ]
    return " , ".join(clauses[i] for i in rng.permutation(len(clauses))) + " ."


def clip_words(clips: Clips) -> list[dict[str, str]]:
    """Attribute -> value for each clip."""
    rows = clips.codes.tolist()
    return [
        {name: ATTRIBUTES[name][code] for name, code in zip(NAMES, row, strict=True)}
        for row in rows
    ]


def vocabulary() -> list[str]:
    """Every word that a caption, a question or an answer may hold, in a fixed order."""
    phrases = ["a it beside describe this video . , : ?", *QUESTIONS.values()]
    for table in (_EVENT, _SPEED, _SCENE, _LIGHT, _PACING, _CAMERA):
        phrases.extend(table.values())
    for values in ATTRIBUTES.values():
        phrases.extend(values)
    return list(dict.fromkeys(" ".join(phrases).split()))


def read_caption(text: str) -> dict[str, str]:
    """The attributes that a generated caption states; those it does not state are absent."""
    found: dict[str, str] = {}
    for clause in text.lower().split(","):
        words = clause.replace(".", " ").replace(":", " ").split()
        if "beside" in words:
            names = ["companion", "companion_color"]
        else:
            names = ["shape", "color", "fill", "size", "scene", "light", "event", "pacing"]
        if "camera" in words:
            names.append("camera")
        for name in names:
            for word in words:
                if word in ATTRIBUTES[name]:
                    found[name] = word
        for code, word in _SPEED.items():
            if word in words:
                found["speed"] = code
    return found


def in_short(words: dict[str, str]) -> str:
    """A clip's title for people.

    Args:
        words: Attribute -> value.

    Example:
        >>> words = {"size": "small", "fill": "solid", "color": "cyan", "shape": "star"}
        >>> in_short(words | {"event": "spins", "scene": "room", "light": "night"})
        'A small solid cyan star spins in a room at night'
    """
    what = f"A {words['size']} {words['fill']} {words['color']} {words['shape']}"
    return f"{what} {_EVENT[words['event']]} {_SCENE[words['scene']]} {_LIGHT[words['light']]}"
