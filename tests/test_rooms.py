"""
The arrows: which room may import which, and where each library may be met.

Imports go one way, C{plugins -> tap -> wiring -> registry | admin -> cache | bundle -> upstream | store | index -> flow
-> oci}, and C{cli -> bundle}. Imports inside functions and for type checking count too. Every rule is shown to bite on
a small tree.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
ARCHITECTURE = CHECKOUT / "appliance" / "ARCHITECTURE.md"

VALUES = frozenset({"oci", "errors"})
SEAMS = VALUES | {"interfaces"}
SHARED = SEAMS | {"settings"}
GROUND = SHARED | {"flow"}
PROVIDERS = frozenset({"upstream", "store", "index"})
#: Of upstreams the rooms above know the seams; the table that makes them is for C{tap}.
DECISIONS = GROUND | {"upstream/interfaces", "store", "index"}
FRONTS = DECISIONS | {"cache", "bundle", "tls"}
#: An archive knows what is held, and no upstream.
ARCHIVED = GROUND | {"store", "index"}
#: The command talks to a running appliance and reads archives; all but one of it opens nothing of the store.
COMMAND = VALUES | {"api", "bundle", "units"}
WRITTEN = frozenset({"units", "fields", "yamltree", "config", "explain"})
EVERYTHING = FRONTS | {"identity"} | PROVIDERS | WRITTEN | {"api", "registry", "admin", "cli", "wiring", "tap"}

#: What each room may import beside itself; rooms side by side do not know each other. An inner room, as
#: C{upstream/kinds}, does not know the room around it but for what is named here.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "oci": frozenset({"errors"}),
    "errors": frozenset({"oci"}),
    "interfaces": VALUES,
    "units": VALUES,
    "fields": VALUES | {"units"},
    "settings": VALUES | {"fields", "units"},
    "yamltree": VALUES,
    "config": VALUES | {"fields", "settings", "yamltree"},
    "explain": VALUES | {"fields", "settings", "units"},
    "flow": SEAMS,
    "tls": GROUND | {"fields"},
    "tls/pem": VALUES,
    **dict.fromkeys(PROVIDERS, GROUND),
    "upstream/url": VALUES,
    "upstream/faults": VALUES | {"upstream/url"},
    "upstream/answer": SEAMS | {"upstream/interfaces", "upstream/url", "upstream/faults"},
    "upstream/interfaces": VALUES | {"settings"},
    "upstream/credentials": GROUND | {"upstream/interfaces", "upstream/url"},
    "upstream/http": GROUND
    | {"tls/pem", "upstream/url", "upstream/faults", "upstream/answer", "upstream/interfaces", "upstream/credentials"},
    "upstream/kinds": GROUND | {"upstream/interfaces", "upstream/url", "upstream/faults", "upstream/credentials"},
    # Who somebody is does not depend on what they ask for.
    "identity": GROUND,
    "cache": DECISIONS | {"identity", "units"},
    "bundle": ARCHIVED,
    "registry": FRONTS | {"identity"},
    "api": VALUES | {"bundle"},
    "admin": FRONTS | {"api", "identity", "units"},
    "cli": COMMAND,
    # A store whose appliance is stopped is opened by what opens it in the appliance.
    "cli/certificate": COMMAND | {"cli", "tls"},
    "cli/scrub": COMMAND | {"cli", "wiring"},
    "wiring": FRONTS | {"identity"} | {"api", "registry", "admin"},
    "tap": EVERYTHING - {"tap"},
    "plugins": EVERYTHING,
}

WEB = frozenset({"registry", "admin"})
#: C{upstream/faults} knows how a request can fail.
ASKING = frozenset({"upstream", "upstream/http", "upstream/faults", "cli"})

#: The only rooms in which a module, or anything below it, may be imported.
ONLY_IN: dict[str, frozenset[str]] = {
    "klein": WEB,
    "werkzeug": WEB,
    "treq": ASKING,
    "twisted.web.client": ASKING,
    "twisted.web._newclient": ASKING,
    "yaml": frozenset({"yamltree"}),
    "twisted.internet.reactor": frozenset({"tap"}),
    "twisted": frozenset(MAY_IMPORT) - VALUES - WRITTEN - {"settings"},
}

#: The only modules in which a module, or anything below it, may be imported; a folder stands for all below it.
ONLY_AT: dict[str, frozenset[str]] = {
    "cryptography": frozenset({"appliance/bundle/minisign.py", "appliance/tls"}),
    "zstandard": frozenset({"appliance/bundle/compression.py"}),
    "rich": frozenset({"appliance/cli"}),
    # An extra: an installation without ECR has none of it.
    "botocore": frozenset({"appliance/upstream/kinds/ecr.py"}),
}

Import = tuple[Path, int, str]


def sources(root: Path) -> list[Path]:
    """Every module of the program under the checkout C{root}."""
    return sorted(path for folder in ("appliance", "plugins") for path in (root / folder).rglob("*.py"))


def room_of(path: Path) -> str:
    """
    The room a file belongs to, by its path below the checkout; C{""} for the package's own C{__init__}.

    That is the innermost one that L{MAY_IMPORT} names, else the first folder or file below C{appliance}.
    """
    if path.parts[0] == "plugins":
        return "plugins"
    return "" if path.parts[1] == "__init__.py" else innermost(path.with_suffix("").parts[1:])


def innermost(parts: tuple[str, ...]) -> str:
    """The innermost room on the way C{parts}, from C{appliance} down."""
    ways = ("/".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((way for way in ways if way in MAY_IMPORT), parts[0])


#: Each rule reads every file.
parsed = lru_cache(maxsize=None)(ast.parse)


def imported(root: Path) -> Iterator[Import]:
    """Every import as (file below C{root}, line, absolute dotted name); a from-import gives module.name for each."""
    for source in sources(root):
        path = source.relative_to(root)
        package = path.parent.parts
        for node in ast.walk(parsed(source.read_text("utf-8"))):
            for name in names_in(node, package):
                yield path, getattr(node, "lineno", 0), name


def names_in(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    """The absolute dotted names that one node of a module in C{package} imports."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = [*package[: len(package) - level + 1]] if level else []
            return [".".join([*base, *([module] if module else []), alias.name]) for alias in names]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
        # The command of twistd imports its module when it is run.
        case ast.Call(func=ast.Name(id="ServiceMaker"), args=[_, ast.Constant(value=str(name)), *_]):
            return [name]
    return []


def is_below(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def wrong_arrows(root: Path) -> list[str]:
    """Imports of a room by one that may not know it, and rooms that have no place yet."""
    wrong = []
    for path, line, name in imported(root):
        room, parts = room_of(path), tuple(name.split("."))
        if not is_below(name, "appliance") or parts[1:] in ((), ("__version__",)):
            continue
        target = innermost(parts[1:])
        if target == room or target.startswith(f"{room}/"):
            continue
        outer = target.partition("/")[0]
        around = {outer} if room.partition("/")[0] != outer else set()
        if MAY_IMPORT.get(room, frozenset()).isdisjoint({target} | around):
            wrong.append(f"{path}:{line}: {room or 'appliance'} imports {name}")
    return wrong


def unplaced_rooms(root: Path) -> list[str]:
    """Rooms that the table of arrows does not name."""
    rooms = {room_of(path.relative_to(root)) for path in sources(root)} - {""}
    return sorted(rooms - set(MAY_IMPORT))


def modules_imported(root: Path) -> dict[str, set[str]]:
    """By file of the program, which of its files it imports; paths below C{root}. The packages' own are left out."""
    files = {".".join(path.relative_to(root).with_suffix("").parts): path.relative_to(root) for path in sources(root)}
    found: dict[str, set[str]] = {str(path): set() for path in files.values() if path.name != "__init__.py"}
    for path, _, name in imported(root):
        target = files.get(name) or files.get(name.rpartition(".")[0])
        if str(path) in found and target is not None and str(target) in found and target != path:
            found[str(path)].add(str(target))
    return found


def cycle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """One way round, from a name to itself again; empty when there is none."""
    try:
        TopologicalSorter({name: sorted(targets) for name, targets in arrows.items()}).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def classes(root: Path) -> dict[str, set[str]]:
    """By name of a class, the files that define one; paths below C{root}."""
    found = defaultdict(set)
    for path in sources(root):
        for node in parsed(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].add(str(path.relative_to(root)))
    return found


def ambiguous_classes(root: Path) -> set[str]:
    """Names of classes that mean more than one thing."""
    return {name for name, files in classes(root).items() if len(files) > 1}


def drawn(arrows: Mapping[str, Iterable[str]]) -> str:
    """
    Arrows as text, a line for each name that has any, each above all that it imports.

    What follows from other arrows is left out: C{a -> b} and C{b -> c} say that C{a} may know C{c}.
    """
    below: dict[str, set[str]] = {}
    for name in TopologicalSorter({name: sorted(targets) for name, targets in arrows.items()}).static_order():
        below[name] = set(arrows.get(name, ())).union(*(below[target] for target in arrows.get(name, ())))
    lines = []
    for name in sorted(below, key=lambda name: (-height(name, arrows), name)):
        targets = set(arrows.get(name, ()))
        direct = targets - set().union(*(below[target] for target in targets))
        if direct:
            lines.append((name, " | ".join(sorted(direct, key=lambda each: (-height(each, arrows), each)))))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}} -> {targets}" for name, targets in lines)


def height(name: str, arrows: Mapping[str, Iterable[str]]) -> int:
    """How many arrows lie below C{name}, one after the other."""
    return 1 + max((height(target, arrows) for target in arrows.get(name, ())), default=0)


def rooms_imported(root: Path) -> dict[str, set[str]]:
    """By outer room, which others it imports; C{oci} and C{errors} are one here, since they are made of each other."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, targets in modules_imported(root).items():
        for target in targets:
            one, other = (outer_room(each) for each in (path, target))
            if one != other:
                found[one].add(other)
    return found


def outer_room(path: str) -> str:
    """The room; of its inner ones only those that may be looked at from outside have one of their own."""
    room = room_of(Path(path))
    if room not in DECISIONS:
        room = room.partition("/")[0]
    return "oci" if room == "errors" else room


def parts_imported(root: Path, folder: Path) -> dict[str, set[str]]:
    """By file or folder directly below C{folder}, which others of it are imported."""
    found: dict[str, set[str]] = defaultdict(set)
    folder = folder.relative_to(root)
    for path, targets in modules_imported(root).items():
        if Path(path).is_relative_to(folder):
            inside = {part_of(target, folder) for target in targets if Path(target).is_relative_to(folder)}
            found[part_of(path, folder)] |= inside - {part_of(path, folder)}
    return found


def part_of(path: str, folder: Path) -> str:
    part = Path(path).relative_to(folder).parts[0]
    return part.removesuffix(".py") if part.endswith(".py") else f"{part}/"


def architecture(root: Path, page: str) -> str:
    """C{page} with the arrows as they are: between its marks stands what was drawn."""
    upstream = drawn(parts_imported(root, root / "appliance/upstream"))
    figures = {"rooms": drawn(rooms_imported(root)), "upstream": upstream}
    for name, figure in figures.items():
        begin, end = f"<!-- arrows: {name} -->\n", f"<!-- end of arrows: {name} -->\n"
        head, rest = page.split(begin)
        page = f"{head}{begin}```\n{figure}\n```\n{end}{rest.split(end)[1]}"
    return page


def stale_entries(root: Path) -> list[str]:
    """What the tables name and is not there any more."""
    rooms = {room_of(path.relative_to(root)) for path in sources(root)}
    places = {place for places in ONLY_AT.values() for place in places}
    return sorted((set(MAY_IMPORT) - rooms) | {place for place in places if not (root / place).exists()})


def stray_libraries(root: Path) -> list[str]:
    """Imports of a library outside the rooms, or the modules, it is kept in."""
    return [
        f"{path}:{line}: {room_of(path) or 'appliance'} imports {name}"
        for path, line, name in imported(root)
        if any(is_below(name, module) and room_of(path) not in rooms for module, rooms in ONLY_IN.items())
        or any(is_below(name, module) and not is_at(path, places) for module, places in ONLY_AT.items())
    ]


def is_at(path: Path, places: frozenset[str]) -> bool:
    """Whether a module is one of C{places}, or below one."""
    return not places.isdisjoint(map(str, (path, *path.parents)))


def packages_among_plugins(root: Path) -> list[str]:
    """Package files in the plugin folder, where there must be none."""
    return [str(path.relative_to(root)) for path in (root / "plugins").rglob("__init__.py*")]


def busy_packages(root: Path) -> list[str]:
    """Packages whose C{__init__} holds more than a docstring (and, at the top, the version)."""
    return [
        str(path.relative_to(root))
        for path in sources(root)
        if path.name == "__init__.py" and path.is_relative_to(root / "appliance") and not is_quiet(path, root)
    ]


def is_quiet(path: Path, root: Path) -> bool:
    """Whether a package's C{__init__} is a docstring, followed at the top by C{__version__} alone."""
    tree = ast.parse(path.read_text("utf-8"))
    rest = [ast.unparse(statement).partition(" = ")[0] for statement in tree.body[1:]]
    version = ["__version__"] if path.parent == root / "appliance" else []
    return ast.get_docstring(tree) is not None and rest in ([], version)


# -- the house as it stands -----------------------------------------------------------------------------------------


def test_the_house_is_looked_at() -> None:
    """The rules below are about this program and not about an empty folder."""
    rooms = {room_of(path.relative_to(CHECKOUT)) for path in sources(CHECKOUT)}
    assert {"oci", "errors", "interfaces", "flow", "store", "index", "upstream", "cache", "registry"} <= rooms
    assert any(name == "appliance.oci.digest.Digest" for _, _, name in imported(CHECKOUT))


def test_imports_go_one_way() -> None:
    """I can read a room knowing only the rooms below it."""
    assert wrong_arrows(CHECKOUT) == []


def test_no_file_imports_itself_in_a_circle() -> None:
    """I can read any file knowing only the files below it, and so can Python."""
    assert cycle(modules_imported(CHECKOUT)) == []


def test_the_parts_of_a_room_import_one_way() -> None:
    """Its files and inner rooms stand one above the other, too."""
    for folder in sorted({path.parent for path in sources(CHECKOUT)}):
        assert cycle(parts_imported(CHECKOUT, folder)) == []


def test_a_class_name_means_one_thing() -> None:
    """Who searches for a class finds the one that is meant."""
    assert ambiguous_classes(CHECKOUT) == set()


def test_the_architecture_page_shows_the_arrows_as_they_are() -> None:
    """The picture is what is checked here; python tests/test_rooms.py draws it again."""
    page = ARCHITECTURE.read_text("utf-8")
    assert architecture(CHECKOUT, page) == page, "run python tests/test_rooms.py"


def test_every_room_has_its_place() -> None:
    """A new room is placed among the arrows before it is used."""
    assert unplaced_rooms(CHECKOUT) == []


def test_the_tables_name_what_is_there() -> None:
    """A rule about a room that is gone holds nothing."""
    assert stale_entries(CHECKOUT) == []


def test_each_library_stays_in_its_rooms() -> None:
    """Klein, treq, YAML and the reactor can each be replaced by looking into one place."""
    assert stray_libraries(CHECKOUT) == []


def test_the_plugin_folder_is_no_package() -> None:
    """Uninstalling pullcache does not break Twisted: an __init__ there would replace Twisted's own."""
    assert packages_among_plugins(CHECKOUT) == []


def test_importing_a_room_runs_nothing() -> None:
    """A package's own file is its description, and nothing happens when it is imported."""
    assert busy_packages(CHECKOUT) == []


# -- that the rules bite --------------------------------------------------------------------------------------------


def house(root: Path, path: str, source: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source, "utf-8")
    return root


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("appliance/oci/digest.py", "import appliance.interfaces"),
        ("appliance/oci/digest.py", "from appliance import config"),
        ("appliance/oci/digest.py", "from ..flow import pump"),
        ("appliance/errors.py", "from appliance.interfaces import IBlobStore"),
        ("appliance/errors.py", "from . import config"),
        ("appliance/interfaces.py", "from appliance.config import load"),
        ("appliance/settings.py", "from appliance.config import load"),
        ("appliance/settings.py", "from . import yamltree"),
        ("appliance/yamltree.py", "from appliance.settings import Settings"),
        ("appliance/fields.py", "from appliance.config import load"),
        ("appliance/fields.py", "from appliance.upstream import hosts"),
        ("appliance/fields.py", "from appliance import settings"),
        ("appliance/fields.py", "from appliance import yamltree"),
        ("appliance/explain.py", "from appliance.config import parse"),
        ("appliance/config.py", "from appliance.upstream.interfaces import IUpstream"),
        ("appliance/config.py", "from .store import blobs"),
        ("appliance/flow/pump.py", "from appliance.settings import Settings"),
        ("appliance/store/blobs.py", "from appliance.config import load"),
        ("appliance/registry/routes.py", "from appliance.explain import describe"),
        ("appliance/flow/pump.py", "from appliance.store.blobs import Blobs"),
        ("appliance/store/blobs.py", "from appliance.index import documents"),
        ("appliance/store/blobs.py", "from ..upstream.agent import Agent"),
        ("appliance/index/documents.py", "import appliance.store.blobs as b"),
        ("appliance/index/documents.py", "import json, appliance.upstream"),
        ("appliance/upstream/agent.py", "from .. import store"),
        ("appliance/upstream/kinds/hub.py", "from ...index import documents"),
        ("appliance/upstream/kinds/hub.py", "from ..client import Client"),
        ("appliance/upstream/kinds/hub.py", "from appliance.upstream.http import auth"),
        ("appliance/upstream/credentials/configured.py", "from ..http import auth"),
        ("appliance/upstream/credentials/configured.py", "from appliance.upstream import table"),
        ("appliance/upstream/credentials/configured.py", "from appliance.upstream.kinds import ecr"),
        ("appliance/upstream/url.py", "from .faults import cleaned"),
        ("appliance/upstream/http/auth.py", "from ..client import RegistryClient"),
        ("appliance/upstream/http/auth.py", "from appliance.upstream import failover"),
        ("appliance/upstream/answer.py", "from .http.body import Delivery"),
        ("appliance/upstream/agent.py", "from appliance.cache.flights import Flight"),
        ("appliance/cache/flights.py", "from appliance.registry import routes"),
        ("appliance/cache/flights.py", "from appliance.upstream.client import RegistryClient"),
        ("appliance/upstream/interfaces.py", "from appliance.upstream.client import RegistryClient"),
        ("appliance/cache/flights.py", "from appliance.bundle import volume"),
        ("appliance/bundle/volume.py", "from appliance.cache import flights"),
        ("appliance/bundle/volume.py", "from appliance.upstream import access"),
        ("appliance/bundle/volume.py", "from appliance.units import size"),
        ("appliance/bundle/volume.py", "from ..registry import failures"),
        ("appliance/cli/status.py", "from appliance.store import blobs"),
        ("appliance/cli/status.py", "from appliance.cache import flights"),
        ("appliance/cli/status.py", "from ..admin import health"),
        ("appliance/registry/routes.py", "from appliance.admin import health"),
        ("appliance/admin/health.py", "from appliance.registry import routes"),
        ("appliance/cli/status.py", "from appliance.tap import makeService"),
        ("appliance/registry/routes.py", "from appliance import tap"),
        ("appliance/tap.py", "import appliance.plugins"),
        ("appliance/api.py", "from appliance.admin.route import Route"),
        ("appliance/api.py", "from appliance.cache.wants import Wants"),
        ("appliance/wiring.py", "from appliance import tap"),
        ("appliance/wiring.py", "from appliance.config import load"),
        ("appliance/admin/health.py", "from appliance.wiring import Services"),
        ("appliance/__init__.py", "from appliance.errors import PullcacheError"),
        ("appliance/newroom.py", "from appliance.errors import PullcacheError"),
        ("appliance/store/blobs.py", "def late():\n    from appliance.index import documents"),
        ("appliance/store/blobs.py", "async def late():\n    if x:\n        import appliance.cache.flights"),
        ("appliance/store/blobs.py", "if TYPE_CHECKING:\n    from appliance.index import documents"),
        ("appliance/store/blobs.py", "try:\n    import appliance.index\nexcept ImportError:\n    pass"),
        ("appliance/store/blobs.py", "import importlib\nimportlib.import_module('appliance.index')"),
        ("appliance/store/blobs.py", "__import__('appliance.index')"),
        ("appliance/store/blobs.py", "from appliance import *"),
    ],
)
def test_an_import_against_the_arrows_is_found(tmp_path: Path, path: str, source: str) -> None:
    """However an import is written, and wherever, it is seen."""
    assert [complaint.split(":")[0] for complaint in wrong_arrows(house(tmp_path, path, source))] == [path]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("appliance/oci/digest.py", "from appliance.errors import DigestInvalid\nfrom .names import x\nimport re"),
        ("appliance/interfaces.py", "from appliance.oci.digest import Digest\nfrom .errors import StoreError"),
        ("appliance/upstream/interfaces.py", "from appliance.settings import UpstreamSettings"),
        (
            "appliance/config.py",
            "from appliance.errors import ConfigError\nfrom appliance import settings, fields, yamltree",
        ),
        ("appliance/fields.py", "from appliance import errors, units"),
        ("appliance/settings.py", "from appliance import fields\nfrom appliance.units import duration"),
        ("appliance/explain.py", "from appliance.settings import Settings\nfrom .units import words"),
        ("appliance/flow/pump.py", "from appliance import errors, interfaces\nfrom appliance.oci import ranges"),
        ("appliance/store/blobs.py", "from ..flow.disk import Threads\nfrom ..settings import Settings"),
        ("appliance/upstream/client.py", "from .http import auth\nfrom ..oci import digest"),
        ("appliance/upstream/kinds/hub.py", "from ..credentials import configured\nfrom ...oci import digest"),
        ("appliance/upstream/http/auth.py", "from ..answer import Answer\nfrom ..credentials import attempts"),
        (
            "appliance/cache/flights.py",
            "from appliance import settings, store, index, flow\nfrom appliance.upstream.interfaces import IUpstream",
        ),
        ("appliance/registry/routes.py", "from appliance.cache import flights\nfrom appliance import __version__"),
        (
            "appliance/bundle/volume.py",
            "from appliance import settings, store, index, flow\nfrom . import tar",
        ),
        (
            "appliance/cli/verify.py",
            "from appliance.bundle import tar\nfrom ..oci import digest\nimport appliance.units",
        ),
        ("appliance/admin/exports.py", "from appliance.bundle import exporter\nfrom appliance.cache import flights"),
        ("appliance/admin/exports.py", "from appliance.api import PlannedExport"),
        ("appliance/cli/exports.py", "from appliance.api import PlannedExport"),
        ("appliance/tap.py", "from appliance import registry, admin, cli, cache, store, oci, config, explain"),
        ("appliance/wiring.py", "from appliance import registry, admin, cache, bundle, store, index, flow, settings"),
        ("plugins/pullcache_plugin.py", "import appliance.tap"),
        ("appliance/store/blobs.py", "import applianceindex\nfrom other.appliance import index"),
    ],
)
def test_an_import_along_the_arrows_is_left_alone(tmp_path: Path, path: str, source: str) -> None:
    """The rules forbid nothing that the design allows."""
    assert wrong_arrows(house(tmp_path, path, source)) == []


def test_a_rule_about_nothing_is_found(tmp_path: Path) -> None:
    """In a house with one room every other rule is about nothing."""
    stale = stale_entries(house(tmp_path, "appliance/oci/digest.py", ""))
    assert "upstream/http" in stale and "appliance/cli" in stale and "oci" not in stale


def test_a_circle_is_found(tmp_path: Path) -> None:
    """Of files, also over three rooms and inside of functions; and of a room's parts, where no file is in one."""
    house(tmp_path, "appliance/a.py", "from appliance.b import one")
    house(tmp_path, "appliance/b.py", "def late():\n    from . import c")
    assert cycle(modules_imported(tmp_path)) == []
    house(tmp_path, "appliance/c.py", "import appliance.a")
    assert set(cycle(modules_imported(tmp_path))) == {f"appliance/{name}.py" for name in "abc"}
    house(tmp_path, "appliance/c.py", "")
    house(tmp_path, "appliance/r/inner/x.py", "from appliance.r import y")
    house(tmp_path, "appliance/r/y.py", "from appliance.r.other import z")
    house(tmp_path, "appliance/r/other/z.py", "")
    assert cycle(parts_imported(tmp_path, tmp_path / "appliance/r")) == []
    house(tmp_path, "appliance/r/other/w.py", "from appliance.r.inner.x import one")
    assert cycle(modules_imported(tmp_path)) == []
    assert set(cycle(parts_imported(tmp_path, tmp_path / "appliance/r"))) == {"inner/", "other/", "y"}


def test_a_class_name_that_means_two_things_is_found(tmp_path: Path) -> None:
    """A private one, too: who reads a traceback finds it as well."""
    house(tmp_path, "appliance/a.py", "class One: pass\nclass _Two: pass")
    house(tmp_path, "appliance/r/b.py", "class Two: pass\nclass _One: pass")
    assert ambiguous_classes(tmp_path) == set()
    house(tmp_path, "appliance/r/c.py", "class One: pass\nclass _Two: pass")
    assert ambiguous_classes(tmp_path) == {"One", "_Two"}


def test_the_arrows_are_drawn_from_top_to_bottom(tmp_path: Path) -> None:
    """Each stands above all that it may know; what follows from other arrows is not drawn."""
    arrows = {"tap": {"cache", "store", "oci"}, "cache": {"store"}, "registry": {"store", "oci"}, "store": {"oci"}}
    assert drawn(arrows) == "tap      -> cache\ncache    -> store\nregistry -> store\nstore    -> oci"


def test_a_room_without_a_place_is_found(tmp_path: Path) -> None:
    """A room cannot slip past the arrows by being new."""
    house(tmp_path, "appliance/helpers/x.py", "")
    house(tmp_path, "appliance/utils.py", "")
    assert unplaced_rooms(house(tmp_path, "appliance/oci/digest.py", "")) == ["helpers", "utils"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("appliance/cache/flights.py", "import klein"),
        ("plugins/pullcache_plugin.py", "from klein import Klein"),
        ("appliance/tap.py", "import klein.app"),
        ("appliance/upstream/agent.py", "from werkzeug.exceptions import NotFound"),
        ("appliance/registry/routes.py", "import treq"),
        ("appliance/cache/flights.py", "from treq.testing import StubTreq"),
        ("appliance/cache/flights.py", "from twisted.web.client import Agent"),
        ("appliance/tap.py", "from twisted.web import client"),
        ("appliance/flow/pump.py", "import twisted.web.client"),
        ("appliance/registry/routes.py", "from twisted.web._newclient import ResponseFailed"),
        ("appliance/registry/routes.py", "import yaml"),
        ("appliance/tap.py", "from yaml import safe_load"),
        ("appliance/config.py", "import yaml"),
        ("appliance/settings.py", "from twisted.python import log"),
        ("appliance/registry/routes.py", "from twisted.internet import defer, reactor"),
        ("appliance/wiring.py", "from twisted.internet import reactor"),
        ("appliance/upstream/agent.py", "import twisted.internet.reactor"),
        ("appliance/cache/flights.py", "def late():\n    from twisted.internet import reactor as r"),
        ("plugins/pullcache_plugin.py", "from twisted.internet import reactor"),
        ("appliance/__init__.py", "import yaml"),
        ("appliance/oci/digest.py", "from twisted.python import log"),
        ("appliance/errors.py", "import twisted"),
        ("appliance/bundle/archive.py", "from cryptography.hazmat.primitives import hashes"),
        ("appliance/cli/keys.py", "import cryptography"),
        ("appliance/bundle/importer.py", "import zstandard"),
        ("appliance/cli/verify.py", "import zstandard"),
        ("appliance/bundle/importer.py", "import treq"),
        ("appliance/bundle/importer.py", "from rich.progress import Progress"),
        ("appliance/admin/exports.py", "import rich"),
        ("appliance/upstream/access/credentials.py", "import botocore.session"),
        ("appliance/upstream/kinds/acr.py", "def late():\n    from botocore import session"),
        ("appliance/fields.py", "import yaml"),
        ("appliance/upstream/credentials/helper.py", "import treq"),
        ("appliance/upstream/kinds/ecr.py", "from twisted.web.client import Agent"),
    ],
)
def test_a_library_outside_its_rooms_is_found(tmp_path: Path, path: str, source: str) -> None:
    """A library that leaks into another room is seen there."""
    assert [complaint.split(":")[0] for complaint in stray_libraries(house(tmp_path, path, source))] == [path]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("appliance/registry/routes.py", "import klein\nfrom werkzeug.exceptions import NotFound"),
        ("appliance/admin/health.py", "from klein import Klein"),
        ("appliance/upstream/agent.py", "import treq\nfrom twisted.web.client import Agent"),
        ("appliance/upstream/http/hub.py", "from twisted.web._newclient import ResponseFailed"),
        ("appliance/cli/status.py", "import treq\nfrom twisted.web import client"),
        ("appliance/yamltree.py", "import yaml"),
        ("appliance/bundle/minisign.py", "from cryptography.exceptions import InvalidSignature"),
        ("appliance/tls/pem.py", "import cryptography.x509"),
        ("appliance/bundle/compression.py", "import zstandard"),
        ("appliance/cli/screen.py", "import rich.table\nimport richer, cryptographies"),
        ("appliance/upstream/kinds/ecr.py", "def late():\n    import botocore.session"),
        ("appliance/tap.py", "from twisted.internet import reactor"),
        ("appliance/registry/routes.py", "from twisted.web import http\nfrom twisted.internet import defer"),
        ("appliance/cache/flights.py", "from twisted.internet.interfaces import IReactorTime\nimport kleins, treqs"),
    ],
)
def test_a_library_in_its_rooms_is_left_alone(tmp_path: Path, path: str, source: str) -> None:
    """The rules forbid nothing that the design allows."""
    assert stray_libraries(house(tmp_path, path, source)) == []


def test_a_plugin_folder_that_became_a_package_is_found(tmp_path: Path) -> None:
    """One empty file there is enough to be seen."""
    assert packages_among_plugins(house(tmp_path, "plugins/pullcache_plugin.py", "")) == []
    assert packages_among_plugins(house(tmp_path, "plugins/__init__.py", "")) == ["plugins/__init__.py"]


@pytest.mark.parametrize(
    "source",
    ["", "import os", '"""Words."""\nimport os', '"""Words."""\n__all__ = []', '"""Words."""\n"""More."""', "x = 1"],
)
@pytest.mark.parametrize("path", ["appliance/__init__.py", "appliance/store/__init__.py", "appliance/a/b/__init__.py"])
def test_a_package_that_does_something_is_found(tmp_path: Path, path: str, source: str) -> None:
    """A package file with code, or without a word of what the room is for, is seen."""
    assert busy_packages(house(tmp_path, path, source)) == [path]


def test_only_the_top_package_carries_the_version(tmp_path: Path) -> None:
    """The version stands in one place."""
    source = '"""Words."""\n\n__version__ = "1"\n'
    assert busy_packages(house(tmp_path, "appliance/__init__.py", source)) == []
    assert busy_packages(house(tmp_path, "appliance/oci/__init__.py", '"""Words."""\n')) == []
    assert busy_packages(house(tmp_path, "appliance/oci/__init__.py", source)) == ["appliance/oci/__init__.py"]


def test_the_page_is_drawn_between_its_marks(tmp_path: Path) -> None:
    """What a person wrote around the arrows stays."""
    house(tmp_path, "appliance/cache/b.py", "from appliance.store import d")
    house(tmp_path, "appliance/store/d.py", "")
    house(tmp_path, "appliance/upstream/table.py", "from appliance.upstream.http import e\nfrom . import url")
    house(tmp_path, "appliance/upstream/http/e.py", "from .. import url")
    house(tmp_path, "appliance/upstream/url.py", "")
    marks = ["<!-- arrows: {} -->\n", "<!-- end of arrows: {} -->\n"]
    rooms, upstream = ([mark.format(name) for mark in marks] for name in ("rooms", "upstream"))
    page = f"one\n{rooms[0]}old\n{rooms[1]}two\n{upstream[0]}{upstream[1]}three\n"
    first = "```\ncache -> store\n```\n"
    second = "```\ntable -> http/\nhttp/ -> url\n```\n"
    assert architecture(tmp_path, page) == (
        f"one\n{rooms[0]}{first}{rooms[1]}two\n{upstream[0]}{second}{upstream[1]}three\n"
    )


if __name__ == "__main__":
    ARCHITECTURE.write_text(architecture(CHECKOUT, ARCHITECTURE.read_text("utf-8")), "utf-8")
