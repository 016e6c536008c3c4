"""
A disk below the calls of C{os}: it stops the process, refuses, and forgets what was not synced.

Everything is done in a real folder, but for the syncs, which cost time. Beside it stands a model of what is durable:
the bytes of a file since its last fsync, and the names in a folder since that folder's. So it can be told at any
moment what a power cut would leave. A rename is there or not as a whole, whichever of its two folders was synced, as
journaling file systems have it; apart from that nothing is durable that was not synced.

It is for one thread: an appliance on L{InlineThreads}.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

WRITES = ("write", "pwrite", "writev", "pwritev")
CALLS = (
    "open",
    *WRITES,
    "ftruncate",
    "fsync",
    "fdatasync",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
)
"""What changes the disk; of C{open} only what makes or empties a file counts. No others are used."""
GROWING = (*WRITES, "open", "mkdir", "link", "symlink")
"""Those that a full disk refuses."""

Tree = dict[str, tuple[str, int, bytes, float]]
"""
What is below a folder, by path: C{"folder"}, C{"file"} or C{"link"}, a number of the file, its bytes, and when they
were written (0 where the disk has no clock).
"""

Cut = Literal["kill", "old", "zeros", "empty", "short", "random"]
"""
What ends the process. C{kill} -9 loses nothing. A power cut: C{old} forgets every name and byte that was not synced;
the others keep all names, and of files that were not synced zeros, nothing, or half; C{random} decides for each.
"""
CUTS: tuple[Cut, ...] = ("kill", "old", "zeros", "empty", "short", "random")


class Stopped(BaseException):
    """The process is gone: this call was not made, nor is any other."""


@dataclass(eq=False)
class _Node:
    """
    A file, a folder or a link.

    @ivar path: where it last got a name, for people.
    @ivar synced: the bytes of a file that are durable, or where a link leads.
    @ivar last: its bytes when its last name went.
    @ivar written: when its bytes were written last.
    @ivar names: of a folder: what is in it; C{durable}: what was when it was last synced.
    """

    kind: str
    synced: bytes = b""
    path: str = ""
    last: bytes | None = None
    written: float = 0.0
    names: dict[str, _Node] = field(default_factory=dict)
    durable: dict[str, _Node] = field(default_factory=dict)


@dataclass(eq=False)
class _Change:
    """Names that came and went together, and whether that is durable."""

    names: list[tuple[_Node, str, _Node | None]]
    is_durable: bool = False


@dataclass(frozen=True)
class Call:
    """One call that changes the disk: C{name} as in C{os}, C{path} below the folder, C{number} from 1."""

    name: str
    path: str
    number: int


class Disk:
    """
    The disk below C{root}, which exists; everything in it is durable. In force within L{mounted}.

    @ivar calls: those made so far.
    @ivar stop_at: the number of the call that is not made any more: L{Stopped}, then and for all later ones. Of a write
        half is done before.
    @ivar refuse: says which calls fail with which C{errno}; C{None}: none.
    @ivar observe: called before each call, and in the middle of each write, with what is about to be done.
    """

    def __init__(self, root: Path, clock: Callable[[], float] | None = None) -> None:
        """@param clock: gives the time at which files are written, seconds since the epoch; C{None}: the real one."""
        self.root = root
        self._clock = clock
        self.calls: list[Call] = []
        self.stop_at: int | None = None
        self.refuse: Callable[[Call], int | None] | None = None
        self.observe: Callable[[Call], None] | None = None
        self._base = os.path.realpath(root)
        self._prefix = self._base + "/"
        self._real = {name: getattr(os, name) for name in CALLS}
        self.settle()

    def settle(self) -> None:
        """All that is there now is durable, also what was changed otherwise."""
        self._files: dict[tuple[int, int], _Node] = {}
        self._pending: list[_Change] = []
        self._top = self._found(self._base)

    @contextmanager
    def mounted(self) -> Iterator[Disk]:
        """In force until the end of this."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, getattr(self, f"_{name}", None) or self._written(name))
            yield self

    @property
    def is_stopped(self) -> bool:
        """Whether the process is gone."""
        return self.stop_at is not None and len(self.calls) >= self.stop_at

    def refuse_all(self, number: int, *names: str, within: str = "") -> None:
        """Let calls of these names, or all, fail from now on with this C{errno}, where the path contains C{within}."""

        def refused(call: Call) -> int | None:
            return number if call.name in (names or CALLS) and within in call.path else None

        self.refuse = refused

    def damage(self, path: str, data: bytes) -> None:
        """The file C{path} below the folder holds other bytes by now, durably."""
        with open(f"{self._base}/{path}", "wb") as file:
            file.write(data)
        if (node := self._node(path)) is not None:
            node.synced = data

    # -- what is left -----------------------------------------------------------------------------------------------

    def left(self, cut: Cut, seed: int = 0) -> Tree:
        """What C{cut} leaves at this moment."""
        chance = random.Random(seed)
        names: dict[_Node, dict[str, _Node]] = {}

        def those_in(folder: _Node) -> dict[str, _Node]:
            return names.setdefault(folder, dict(folder.durable))

        if cut not in ("old", "random"):
            found = self._tree(lambda folder: folder.names)
        else:
            # Half of the time as a journal has it: what came before is there where what came after is.
            until = chance.randrange(len(self._pending) + 1)
            in_order = chance.random() < 0.5
            for number, change in enumerate(self._pending):
                kept = cut == "random" and (number < until if in_order else chance.random() < 0.5)
                if change.is_durable or kept:
                    for folder, name, node in change.names:
                        _put(those_in(folder), name, node)
            found = self._tree(those_in)
        where = {node: path for path, node in self._tree(lambda folder: folder.names)}
        numbers: dict[_Node, int] = {}
        tree: Tree = {}
        for path, node in found:
            data = node.synced
            if node.kind == "file":
                data = _left_of(node.synced, self._bytes(node, where), cut, chance)
            tree[path] = (node.kind, numbers.setdefault(node, len(numbers)), data, node.written)
        return tree

    # -- the calls --------------------------------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        below = None if not isinstance(path, str | bytes | os.PathLike) else self._below(path, dir_fd)
        makes = bool(flags & os.O_CREAT)
        if below is None or not (makes or flags & os.O_TRUNC or flags & os.O_TMPFILE == os.O_TMPFILE):
            fd: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
            return fd
        self._begin("open", below)
        is_new = makes and not os.path.lexists(f"{self._base}/{below}")
        fd = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if is_new or flags & os.O_TMPFILE == os.O_TMPFILE:
            node = self._files[_identity(fd)] = _Node("file")
            if is_new:
                self._changed((*self._place(below), node))
            self._stamp(fd, node)
        return fd

    def _written(self, name: str) -> Callable[..., int]:
        """A call that writes to a file."""
        real = self._real[name]

        def write(fd: int, data: Any, *where: int) -> int:
            if (node := self._file(fd)) is None:
                written: int = real(fd, data, *where)
                return written
            self._begin(name, node.path)
            pieces = data if name.endswith("v") else [data]
            whole = b"".join(bytes(piece) for piece in pieces)
            half = len(whole) // 2
            here = where[0] if where else os.lseek(fd, 0, os.SEEK_CUR)
            if half and self.observe is not None:
                self._real["pwrite"](fd, whole[:half], here)
                self.observe(self.calls[-1])
            if self.is_stopped:
                self._real["pwrite"](fd, whole[:half], here)
                raise Stopped
            written = real(fd, whole if name in ("write", "pwrite") else [whole], *where)
            self._stamp(fd, node)
            return written

        return write

    def _ftruncate(self, fd: int, length: int) -> None:
        if (node := self._file(fd)) is not None:
            self._begin("ftruncate", node.path)
        self._real["ftruncate"](fd, length)

    def _fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def _fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def _sync(self, name: str, fd: int) -> None:
        path = self._path_of(fd)
        node = self._file(fd) if path is None else self._node(path)
        if node is None:
            self._real[name](fd)
            return
        self._begin(name, node.path)
        if node.kind == "file":
            node.synced = _content(fd)
        else:
            self._make_durable(node)

    def _rename(self, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self._move("rename", old, new, src_dir_fd, dst_dir_fd)

    def _replace(self, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self._move("replace", old, new, src_dir_fd, dst_dir_fd)

    def _move(self, name: str, old: Any, new: Any, old_fd: int | None, new_fd: int | None) -> None:
        source, target = self._below(old, old_fd), self._below(new, new_fd)
        if target is not None:
            self._begin(name, target)
        elif source is not None:
            self._begin(name, source)
        moved = None if source is None else self._node(source)
        if target is not None:
            self._keep_last(target, moved)
        self._real[name](old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd)
        if target is not None and moved is None:
            moved = self._found(f"{self._base}/{target}")
        gone = [] if source is None else [(*self._place(source), None)]
        came = [] if target is None else [(*self._place(target), moved)]
        # A rename onto another name of the same file does nothing.
        if source is None or not os.path.lexists(f"{self._base}/{source}"):
            self._changed(*gone, *came)

    def _link(
        self,
        old: Any,
        new: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        target = self._below(new, dst_dir_fd)
        if target is not None:
            self._begin("link", target)
        fds = {"src_dir_fd": src_dir_fd, "dst_dir_fd": dst_dir_fd}
        self._real["link"](old, new, **fds, follow_symlinks=follow_symlinks)
        if target is not None:
            found = os.stat(f"{self._base}/{target}")
            node = self._files.get((found.st_dev, found.st_ino)) or self._found(f"{self._base}/{target}")
            self._changed((*self._place(target), node))

    def _symlink(self, to: Any, new: Any, target_is_directory: bool = False, *, dir_fd: int | None = None) -> None:
        below = self._below(new, dir_fd)
        if below is not None:
            self._begin("symlink", below)
        self._real["symlink"](to, new, dir_fd=dir_fd)
        if below is not None:
            self._changed((*self._place(below), _Node("link", os.fsencode(to))))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._gone("unlink", path, dir_fd)

    def _remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._gone("remove", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._gone("rmdir", path, dir_fd)

    def _gone(self, name: str, path: Any, dir_fd: int | None) -> None:
        below = self._below(path, dir_fd)
        if below is None:
            self._real[name](path, dir_fd=dir_fd)
            return
        self._begin(name, below)
        self._keep_last(below, None)
        self._real[name](path, dir_fd=dir_fd)
        self._changed((*self._place(below), None))

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        below = self._below(path, dir_fd)
        if below is not None:
            self._begin("mkdir", below)
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if below is not None:
            self._changed((*self._place(below), _Node("folder")))

    # -- the model --------------------------------------------------------------------------------------------------

    def _begin(self, name: str, path: str) -> None:
        """A call is about to be made."""
        if self.is_stopped:
            raise Stopped
        call = Call(name, path, len(self.calls) + 1)
        if self.observe is not None:
            self.observe(call)
        self.calls.append(call)
        if self.is_stopped and name not in WRITES:
            raise Stopped
        number = None if self.refuse is None else self.refuse(call)
        if number is not None:
            raise OSError(number, os.strerror(number), f"{self._base}/{path}")

    def _stamp(self, fd: int, node: _Node) -> None:
        """It was written just now."""
        if self._clock is not None:
            node.written = self._clock()
            os.utime(fd, (node.written, node.written))

    def _found(self, path: str) -> _Node:
        """The model of what is at C{path}, all durable."""
        found = os.lstat(path)
        if os.path.islink(path):
            return _Node("link", os.fsencode(os.readlink(path)))
        if os.path.isdir(path):
            names = {name: self._found(f"{path}/{name}") for name in sorted(os.listdir(path))}
            return _Node("folder", path=path[len(self._prefix) :], names=names, durable=dict(names))
        with open(path, "rb") as file:
            node = _Node("file", file.read(), path[len(self._prefix) :])
        node.written = 0.0 if self._clock is None else found.st_mtime
        return self._files.setdefault((found.st_dev, found.st_ino), node)

    def _changed(self, *names: tuple[_Node, str, _Node | None]) -> None:
        for folder, name, node in names:
            _put(folder.names, name, node)
            if node is not None:
                node.path = f"{folder.path}/{name}" if folder.path else name
        self._pending.append(_Change(list(names)))

    def _make_durable(self, folder: _Node) -> None:
        """Its names are durable, and those that came or went together with them."""
        for change in self._pending:
            change.is_durable = change.is_durable or any(place is folder for place, _, _ in change.names)
        # What is durable and not preceded by what is not has become part of what there is; what is overtaken is over.
        later: set[tuple[int, str]] = set()
        kept: list[_Change] = []
        for change in reversed(self._pending):
            keys = {(id(place), name) for place, name, _ in change.names}
            if not keys <= later:
                kept.append(change)
            if change.is_durable:
                later |= keys
        self._pending = []
        before: set[tuple[int, str]] = set()
        for change in reversed(kept):
            keys = {(id(place), name) for place, name, _ in change.names}
            if change.is_durable and not keys & before:
                for place, name, node in change.names:
                    _put(place.durable, name, node)
            else:
                before |= keys
                self._pending.append(change)

    def _keep_last(self, path: str, other: _Node | None) -> None:
        """The file at C{path} loses that name: keep its bytes, should it be the last one."""
        node = self._node(path)
        if node is not None and node is not other and node.kind == "file":
            with open(f"{self._base}/{path}", "rb") as file:
                node.last = file.read()

    def _bytes(self, node: _Node, where: dict[_Node, str]) -> bytes:
        """What a file holds now, or held when its last name went."""
        if node in where:
            with open(f"{self._base}/{where[node]}", "rb") as file:
                return file.read()
        return node.synced if node.last is None else node.last

    def _tree(self, names: Callable[[_Node], dict[str, _Node]]) -> list[tuple[str, _Node]]:
        found: list[tuple[str, _Node]] = []

        def walk(folder: _Node, path: str) -> None:
            for name, node in sorted(names(folder).items()):
                found.append((path + name, node))
                if node.kind == "folder":
                    walk(node, f"{path}{name}/")

        walk(self._top, "")
        return found

    def _below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """C{path} from the folder on, C{None} when it is elsewhere."""
        text = os.fsdecode(path)
        if dir_fd is not None and not os.path.isabs(text):
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        folder, name = os.path.split(os.path.abspath(text))
        whole = os.path.join(os.path.realpath(folder), name)
        return whole[len(self._prefix) :] if whole.startswith(self._prefix) else None

    def _path_of(self, fd: int) -> str | None:
        """The path of an open folder, C{None} for anything else and elsewhere."""
        if not os.path.isdir(f"/proc/self/fd/{fd}"):
            return None
        whole = os.readlink(f"/proc/self/fd/{fd}")
        if whole == self._base:
            return ""
        return whole[len(self._prefix) :] if whole.startswith(self._prefix) else None

    def _node(self, path: str) -> _Node | None:
        node = self._top
        for name in path.split("/") if path else ():
            if name not in node.names:
                return None
            node = node.names[name]
        return node

    def _place(self, path: str) -> tuple[_Node, str]:
        folder, _, name = path.rpartition("/")
        node = self._node(folder)
        assert node is not None, f"{folder} was made otherwise"
        return node, name

    def _file(self, fd: int) -> _Node | None:
        # Its inode may be that of a file that is gone by now.
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(self._prefix):
            return None
        return self._files.get(_identity(fd))


def lay_out(tree: Tree, folder: Path) -> Path:
    """Make C{folder} of C{tree}."""
    folder.mkdir(parents=True)
    first: dict[int, Path] = {}
    for path, (kind, number, data, written) in tree.items():
        target = folder / path
        if kind == "folder":
            target.mkdir()
        elif kind == "link":
            target.symlink_to(os.fsdecode(data))
        elif number in first:
            os.link(first[number], target)
        else:
            target.write_bytes(data)
            if written:
                os.utime(target, (written, written))
            first[number] = target
    return folder


def _put(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _left_of(synced: bytes, now: bytes, cut: Cut, chance: random.Random) -> bytes:
    """What is left of a file's bytes."""
    if cut == "random":
        cut = chance.choice(CUTS[:-1])
    if cut == "kill" or synced == now:
        return now
    if cut == "zeros":
        return synced + bytes(max(0, len(now) - len(synced)))
    if cut == "short":
        return synced + now[len(synced) : (len(synced) + len(now)) // 2]
    return b"" if cut == "empty" and not synced else synced


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _content(fd: int) -> bytes:
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        return file.read()
