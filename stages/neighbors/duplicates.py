"""Images that are the same file more than once."""

from __future__ import annotations

from collections.abc import Sequence


def duplicate_groups(content: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Positions of images with equal content, by first position; an empty digest equals nothing."""
    groups: dict[str, list[int]] = {}
    for position, digest in enumerate(content):
        if digest:
            groups.setdefault(digest, []).append(position)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def in_conflict(
    groups: Sequence[Sequence[int]], value: Sequence[object], missing: object
) -> tuple[tuple[int, ...], ...]:
    """The groups whose members differ in `value`; members whose value is `missing` do not count."""
    return tuple(tuple(group) for group in groups if len({value[position] for position in group} - {missing}) > 1)
