"""Quantities as people say them."""

from __future__ import annotations


def in_time(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> in_time(0.5), in_time(75), in_time(3 * 3600 + 59), in_time(4 * 86400)
        ('0.5 s', '1 min 15 s', '3 h 1 min', '4 d 0 h')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    for large, small, unit, name in ((86400, 3600, "d", "h"), (3600, 60, "h", "min")):
        if seconds >= large:
            whole = round(seconds / small)
            return f"{whole * small // large} {unit} {whole % (large // small)} {name}"
    return f"{round(seconds) // 60} min {round(seconds) % 60} s"


def in_bytes(count: float) -> str:
    """A number of bytes, in the units of 1024.

    Example:
        >>> in_bytes(950), in_bytes(3_145_728)
        ('950 bytes', '3.0 MiB')
    """
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
