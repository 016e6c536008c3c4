"""Which references the words on a command line mean."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle.selection import Candidate, Selection, Selector, WantedReference, parse_list, parse_pattern
from appliance.errors import BundleError
from appliance.oci.digest import Digest

ONE, TWO, THREE = (Digest.of(text) for text in (b"one", b"two", b"three"))
CANDIDATES = [
    Candidate("docker.io", "library/nginx", "1.26", ONE, 100.0),
    Candidate("docker.io", "library/nginx", "1.27", TWO, 200.0),
    Candidate("docker.io", "library/nginx", None, THREE, None),
    Candidate("docker.io", "library/nginx", None, ONE, None, implied=True),
    Candidate("docker.io", "library/nginx", f"{ONE.file_name}.sig", THREE, None, implied=True),
    Candidate("docker.io", "grafana/grafana", "11", ONE, 50.0),
    Candidate("ghcr.io", "a/b/c", "v1", TWO, 300.0),
    Candidate("ghcr.io", "a", "v1", TWO, None),
]
EVERYTHING = {candidate.name for candidate in CANDIDATES if not candidate.implied}


def upstream_for(name: str) -> str | None:
    known = ("docker.io", "ghcr.io", "corp")
    return {"dockerhub": "docker.io", **{each: each for each in known}}.get(name)


def chosen(selection: Selection, candidates: Iterable[Candidate] = CANDIDATES) -> set[str]:
    return {candidate.name for candidate in Selector(selection, upstream_for).choose(candidates, {})}


def names(*refs: str, **more: object) -> set[str]:
    return chosen(Selection(refs=refs, **more))  # type: ignore[arg-type]


NGINX = {"docker.io/library/nginx:1.26", "docker.io/library/nginx:1.27", f"docker.io/library/nginx@{THREE}"}


@pytest.mark.parametrize("name", ["nginx", "library/nginx", "docker.io/nginx", "dockerhub/library/nginx"])
def test_a_bare_name_is_docker_hubs_and_means_all_that_is_held_of_it(name: str) -> None:
    """As with docker save, a name without a tag means every tag; what was pulled by digest comes too."""
    assert names(name) == NGINX


def test_a_tag_means_that_tag() -> None:
    """I name one tag and get one image."""
    assert names("nginx:1.27") == {"docker.io/library/nginx:1.27"}
    assert names("ghcr.io/a:v1") == {"ghcr.io/a:v1"}
    assert names("nginx:1.2*") == {"docker.io/library/nginx:1.26", "docker.io/library/nginx:1.27"}


def test_a_digest_means_that_manifest_even_when_it_comes_along_with_others() -> None:
    """I pin by digest: that reference is exported under its digest, child of an index or not."""
    assert names(f"nginx@{ONE}") == {f"docker.io/library/nginx@{ONE}"}
    assert names(f"nginx@{TWO}") == {f"docker.io/library/nginx@{TWO}"}
    assert names(f"nginx:1.27@{TWO}") == {"docker.io/library/nginx:1.27"}
    assert names(f"nginx:1.27@{ONE}") == set()


def test_stars_stay_within_a_component_and_double_stars_do_not() -> None:
    """Patterns mean what they mean in the configuration."""
    assert names("ghcr.io/*") == {"ghcr.io/a:v1"}
    assert names("ghcr.io/**") == {"ghcr.io/a:v1", "ghcr.io/a/b/c:v1"}
    assert names("**/c") == {"ghcr.io/a/b/c:v1"}
    assert names("*/a") == {"ghcr.io/a:v1"}
    assert names("docker.io/g*/*") == {"docker.io/grafana/grafana:11"}
    assert names("docker.io/*/*:1*") == NGINX - {f"docker.io/library/nginx@{THREE}"} | {"docker.io/grafana/grafana:11"}
    assert names("**") == EVERYTHING


def test_a_signature_comes_with_its_image_and_not_by_itself_unless_it_is_named() -> None:
    """A user who names signatures by their tags gets them; patterns for images do not stumble over them."""
    signature = f"docker.io/library/nginx:{ONE.file_name}.sig"
    assert signature not in names("nginx") and signature not in names("**")
    assert names(f"nginx:{ONE.file_name}.sig") == {signature}


def test_all_means_all() -> None:
    """Nothing that can be pulled is left out."""
    assert chosen(Selection(all=True)) == EVERYTHING


def test_since_means_pulled_since() -> None:
    """What was not pulled for long, or ever, stays here."""
    assert chosen(Selection(since=200.0)) == {"docker.io/library/nginx:1.27", "ghcr.io/a/b/c:v1"}
    assert names("nginx", since=200.0) == {"docker.io/library/nginx:1.27"}


def test_what_means_nothing_is_reported() -> None:
    """A typing error in a list of a hundred names is found."""
    selector = Selector(
        Selection(refs=("nginx", "ngnix:1.27"), want=(WantedReference("ghcr.io", "a", "v2"),)), upstream_for
    )
    selector.choose(CANDIDATES, {})
    assert selector.unanswered() == ["ngnix:1.27", "ghcr.io/a:v2"]


def test_what_the_other_side_wants_is_taken_however_old() -> None:
    """A wants file adds tags, manifests by digest, and the images that hold a wanted blob."""
    blob = Digest.of(b"layer")
    want = (
        WantedReference("docker.io", "grafana/grafana", "11"),
        WantedReference("docker.io", "library/nginx", str(ONE)),
        WantedReference("ghcr.io", "a", str(blob)),
    )
    selector = Selector(Selection(want=want, since=1e9, refs=("nginx:1.27",)), upstream_for)
    assert selector.looked_for("ghcr.io", "a") == frozenset({blob})
    found = {candidate.name for candidate in selector.choose(CANDIDATES, {blob: [TWO]})}
    assert found == {"docker.io/grafana/grafana:11", f"docker.io/library/nginx@{ONE}", "ghcr.io/a:v1"}


def test_only_repositories_that_may_be_meant_are_looked_at() -> None:
    """To export one image takes no reading of the others."""
    selector = Selector(Selection(refs=("nginx:1.27",), want=(WantedReference("ghcr.io", "a", "v1"),)), upstream_for)
    assert selector.concerns("docker.io", "library/nginx") and selector.concerns("ghcr.io", "a")
    assert not selector.concerns("docker.io", "grafana/grafana") and not selector.concerns("ghcr.io", "a/b/c")


def test_an_export_of_nothing_is_refused() -> None:
    """A forgotten argument does not make an empty bundle."""
    with pytest.raises(BundleError, match="nothing to export"):
        Selector(Selection(), upstream_for)


@pytest.mark.parametrize("text", ["", ":tag", "a//b", "/a", "a b", "nginx@", "@sha256:1"])
def test_what_is_no_name_is_refused_with_an_example(text: str) -> None:
    """A word that cannot be a reference is said to be none."""
    with pytest.raises(BundleError, match="docker.io/library/nginx"):
        parse_pattern(text, upstream_for)


class CountedWant(WantedReference):
    """A want that counts how often it is looked at."""

    looks = 0

    @property
    def name(self) -> str:
        CountedWant.looks += 1
        return super().name


def test_choosing_costs_what_is_there_and_not_that_times_what_is_wanted() -> None:
    """The other side may want ten thousand made-up names of a repository with as many tags."""
    tags = [Candidate("docker.io", "library/nginx", str(number), ONE) for number in range(200)]
    wants = tuple(CountedWant("docker.io", "library/nginx", f"made-up-{number}") for number in range(200))
    wanted = (
        *wants,
        CountedWant("docker.io", "library/nginx", "7"),
        CountedWant("docker.io", "library/nginx", str(TWO)),
    )
    CountedWant.looks = 0
    selector = Selector(Selection(want=wanted), upstream_for)
    found = selector.choose([*tags, Candidate("docker.io", "library/nginx", "two", TWO)], {TWO: [ONE]})
    assert {each.name for each in found} == {
        *(tag.name for tag in tags),
        f"docker.io/library/nginx@{TWO}",
    }
    assert selector.unanswered() == [f"docker.io/library/nginx:made-up-{number}" for number in range(200)]
    assert CountedWant.looks < 2 * len(wanted) + len(tags)


def test_an_upstream_is_known_by_its_dot_its_port_or_its_configuration() -> None:
    """What docker takes for a registry is one here, and what is configured here as well."""
    expected = {
        "corp/x": "corp/x",
        "other/x": "docker.io/other/x",
        "localhost/x": "localhost/x",
        "r.example:5000/x:1": "r.example:5000/x",
    }
    assert {text: parse_pattern(text, upstream_for).place for text in expected} == expected


def test_a_list_file_has_comments_and_blank_lines() -> None:
    """The list that my deployment tool writes can be annotated."""
    assert parse_list("# mine\nnginx:1.27  # web\n\n  ghcr.io/a/b\n") == ("nginx:1.27", "ghcr.io/a/b")


@given(
    st.sampled_from(["docker.io", "ghcr.io", "r.example:5000"]),
    st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=2, max_size=4),
    st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,10}", fullmatch=True),
)
def test_every_reference_means_itself(upstream: str, components: list[str], tag: str) -> None:
    """What a listing prints can be given to export as it is."""
    repository = "/".join(components)
    for candidate in (Candidate(upstream, repository, tag, ONE), Candidate(upstream, repository, None, TWO)):
        assert chosen(Selection(refs=(candidate.name,)), [candidate]) == {candidate.name}
