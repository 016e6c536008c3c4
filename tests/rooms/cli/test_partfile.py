"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.cli.failures import CommandFailed
from appliance.cli.partfile import AT_ONCE, PartFile


def test_a_finished_file_stands_under_its_name_alone(tmp_path: Path) -> None:
    """When the command says done, the file is there and nothing else."""
    with PartFile(tmp_path / "a.tar") as part:
        part.write(b"one ")
        part.write(b"two")
        part.finish()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.tar": b"one two"}


def test_an_interrupted_file_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C, or a line that breaks, leaves no half file that could be carried away by mistake."""
    with pytest.raises(KeyboardInterrupt), PartFile(tmp_path / "a.tar") as part:
        part.write(b"one")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A failed export does not cost me yesterday's."""
    (tmp_path / "a.tar").write_bytes(b"yesterday")
    with pytest.raises(ValueError, match="broken"), PartFile(tmp_path / "a.tar") as part:
        part.write(b"today")
        raise ValueError("broken")
    assert (tmp_path / "a.tar").read_bytes() == b"yesterday"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """One line says what could not be written."""
    with pytest.raises(CommandFailed, match="no-such/a.tar cannot be written: No such file"):
        with PartFile(tmp_path / "no-such" / "a.tar"):
            pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    """No space left: the message names the file, and nothing is left."""
    (tmp_path / "a.part").symlink_to("/dev/full")
    with pytest.raises(CommandFailed, match="a cannot be written: No space left"), PartFile(tmp_path / "a") as part:
        part.write(bytes(AT_ONCE))
    assert list(tmp_path.iterdir()) == []
