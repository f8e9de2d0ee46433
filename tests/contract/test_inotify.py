"""What the kernel says of a folder, for real."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from tests.support.eventually import soon
from weft.discovery.file_watch import AT_ONCE, PathWatch
from weft.targets.inotify import Inotify, Mask


@pytest.mark.parametrize("name", ["file", "with a space", "ünïcödé", "x" * 255])
def test_a_file_that_is_made_is_named(tmp_path: Path, name: str) -> None:
    listening = Inotify()
    try:
        listening.add_watch(tmp_path, Mask.CREATE | Mask.DELETE)
        assert listening.next() is None
        (tmp_path / name).touch()
        (tmp_path / name).unlink()
        told = [listening.next(), listening.next()]
        assert [(e.folder, e.mask, e.name) for e in told if e] == [
            (tmp_path, Mask.CREATE, name),
            (tmp_path, Mask.DELETE, name),
        ]
        assert listening.next() is None
    finally:
        listening.close()


def test_a_folder_that_went_is_told_and_its_number_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    listening = Inotify()
    try:
        number = listening.add_watch(folder, Mask.DELETE_SELF | Mask.ONLYDIR)
        folder.rmdir()
        told = [listening.next(), listening.next()]
        assert [(e.folder, e.mask) for e in told if e] == [(folder, Mask.DELETE_SELF), (folder, Mask.IGNORED)]
        with pytest.raises(OSError, match="Invalid argument"):
            listening.rm_watch(number)
    finally:
        listening.close()


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    listening = Inotify()
    try:
        for name, why in (("file", errno.ENOTDIR), ("absent", errno.ENOENT)):
            with pytest.raises(OSError) as refused:  # noqa: PT011
                listening.add_watch(tmp_path / name, Mask.CREATE | Mask.ONLYDIR)
            assert refused.value.errno == why
    finally:
        listening.close()


async def test_the_last_of_very_many_events_is_heard_too(tmp_path: Path) -> None:
    """They come with one reading, and others get their turn between them."""
    heard = asyncio.Event()
    watch = PathWatch(str(tmp_path / "wanted"), heard.set)
    try:
        for number in range(AT_ONCE):
            (tmp_path / f"other{number}").touch()
        (tmp_path / "wanted").touch()
        await soon(heard.is_set, "the event at the end", 5)
    finally:
        watch.close()
