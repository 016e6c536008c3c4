"""What keeps what in one repository, compared with a model that tries everything."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.index.graph import Kept, Relations
from appliance.index.repository import Repository
from appliance.oci.descriptor import Descriptor
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.oci.referrer import cosign_tags, fallback_tag

NODES = [Digest.of(f"manifest {number}".encode()) for number in range(7)]
BLOBS = [Digest.of(f"blob {number}".encode()) for number in range(5)]


def descriptor(digest: Digest, size: int = 1) -> Descriptor:
    return Descriptor(str(digest), size)


@dataclass
class Model:
    """
    A repository as plain sets.

    @ivar children: pairs of index and child; C{subjects}: of referrer and subject; C{blobs}: of manifest and blob.
    @ivar tags: what each means; C{about}: what a tag is about, where it is about something.
    """

    held: set[Digest]
    children: set[tuple[Digest, Digest]]
    subjects: dict[Digest, Digest]
    blobs: set[tuple[Digest, Digest]]
    tags: dict[str, Digest]
    about: dict[str, Digest] = field(default_factory=dict)

    def built(self) -> tuple[Repository, Relations]:
        """The same as the program has it."""
        repository, relations = Repository("docker.io", "app"), Relations()
        for digest in sorted(self.held):
            manifest = self.manifest(digest)
            repository.hold(digest, manifest.media_type, 1)
            relations.add(digest, manifest, repository.manifests[digest])
        for tag, digest in self.tags.items():
            repository.tag(tag, digest, 1.0)
        return repository, relations

    def manifest(self, digest: Digest) -> Manifest:
        """Of that digest, as its document says."""
        children = [descriptor(child) for index, child in sorted(self.children) if index == digest]
        blobs = [descriptor(blob) for manifest, blob in sorted(self.blobs) if manifest == digest]
        subject = self.subjects.get(digest)
        return Manifest(
            OCI_INDEX if children else OCI_MANIFEST,
            tuple(children),
            tuple(blobs),
            None if subject is None else descriptor(subject),
        )

    def edges(self) -> set[tuple[Digest, Digest]]:
        """Pairs of manifests held of which the first brings the second along."""
        pairs = {(index, child) for index, child in self.children if index in self.held}
        pairs |= {(subject, referrer) for referrer, subject in self.subjects.items()}
        pairs |= {(subject, self.tags[tag]) for tag, subject in self.about.items()}
        return {(one, other) for one, other in pairs if one in self.held and other in self.held}

    def kept(self, roots: set[Digest]) -> set[Digest]:
        """Everything that the roots bring along, by trying every edge until nothing more comes."""
        found = roots & self.held
        while more := {other for one, other in self.edges() if one in found} - found:
            found |= more
        return found


@st.composite
def models(draw: st.DrawFn) -> Model:
    held = draw(st.sets(st.sampled_from(NODES), min_size=1))
    node, one = st.sampled_from(NODES), st.sampled_from(sorted(held))
    # A manifest is named by the hash of its bytes: none can be beneath itself, whatever tags do.
    pairs = draw(st.sets(st.tuples(one, node)))
    children = {(index, child) for index, child in pairs if NODES.index(child) < NODES.index(index)}
    said = draw(st.dictionaries(one, node))
    subjects = {referrer: subject for referrer, subject in said.items() if NODES.index(subject) < NODES.index(referrer)}
    blobs = draw(st.sets(st.tuples(one, st.sampled_from(BLOBS))))
    tags = draw(st.dictionaries(st.sampled_from(["1", "2", "latest"]), one))
    about: dict[str, Digest] = {}
    for subject, meant, which in draw(st.lists(st.tuples(node, one, st.integers(0, 3)), max_size=4)):
        tag = [fallback_tag(subject), *cosign_tags(subject)][which]
        tags[tag], about[tag] = meant, subject
    return Model(held, children, subjects, blobs, tags, about)


@given(models(), st.sets(st.sampled_from(NODES)))
@settings(deadline=None, max_examples=50)
def test_what_is_kept_is_all_that_comes_along_and_nothing_else(model: Model, digests: set[Digest]) -> None:
    """Children, what refers to any of it by subject or tag, and so on; and every blob that these name."""
    repository, relations = model.built()
    kept = relations.kept(repository, (), digests)
    assert kept.manifests == model.kept(digests)
    assert kept.tags == {tag for tag, subject in model.about.items() if subject in kept.manifests}
    named = {blob for manifest, blob in model.blobs if manifest in kept.manifests}
    beneath = {child for index, child in model.children if index in kept.manifests}
    assert kept.blobs == kept.manifests | named | beneath


@given(models())
@settings(deadline=None, max_examples=50)
def test_the_roots_keep_everything(model: Model) -> None:
    """With all roots kept, all is kept; and what has no tag and is brought along by nothing is a root."""
    repository, relations = model.built()
    tags, digests = relations.roots(repository)
    kept = relations.kept(repository, tags, digests)
    assert (kept.tags, kept.manifests) == (set(repository.tags), set(repository.manifests))
    assert {tag for tag in model.tags if model.about.get(tag) not in model.held} == set(tags)
    brought = {other for _, other in model.edges()} | set(model.tags.values())
    assert model.held - brought <= set(digests)
    if model.kept((model.held - brought) | {model.tags[tag] for tag in tags}) == model.held:
        assert set(digests) == model.held - brought


@given(models(), st.data())
@settings(deadline=None, max_examples=50)
def test_what_some_roots_keep_stays_whatever_happens_to_the_others(model: Model, data: st.DataObject) -> None:
    """Roots are let go one by one or together: the rest is the same."""
    repository, relations = model.built()
    tags, digests = relations.roots(repository)
    some = data.draw(st.sets(st.sampled_from([*tags, *digests]))) if tags or digests else set()
    parts = [
        relations.kept(repository, [each], ()) if isinstance(each, str) else relations.kept(repository, (), [each])
        for each in sorted(some, key=str)
    ]
    chosen_tags = [each for each in some if isinstance(each, str)]
    chosen_digests = [each for each in some if isinstance(each, Digest)]
    nothing: frozenset[str] = frozenset()
    assert relations.kept(repository, chosen_tags, chosen_digests) == Kept(
        nothing.union(*(part.tags for part in parts)),
        frozenset[Digest]().union(*(part.manifests for part in parts)),
        frozenset[Digest]().union(*(part.blobs for part in parts)),
    )


@given(models())
@settings(deadline=None, max_examples=50)
def test_what_comes_along_needs_no_name(model: Model) -> None:
    """A child of an index that is held, and what refers to something that is held; a tag that is about that."""
    repository, relations = model.built()
    for digest in repository.manifests:
        child = any(index in model.held for index, each in model.children if each == digest)
        refers = model.subjects.get(digest) in model.held
        assert relations.is_implied(repository, digest, None) == (child or refers)
    for tag, digest in model.tags.items():
        assert relations.is_implied(repository, digest, tag) == (model.about.get(tag) in model.held)


@given(models(), st.sets(st.sampled_from([*NODES, *BLOBS])))
@settings(deadline=None, max_examples=50)
def test_manifests_are_found_by_what_they_name(model: Model, wanted: set[Digest]) -> None:
    """Children and blobs alike, as a client's want names them."""
    _, relations = model.built()
    pairs = model.children | model.blobs
    found = {named: sorted({one for one, other in pairs if other == named}) for named in wanted}
    assert relations.naming(wanted) == {named: manifests for named, manifests in found.items() if manifests}


@given(models(), st.sets(st.sampled_from(NODES)))
@settings(deadline=None, max_examples=50)
def test_what_has_left_the_repository_keeps_nothing(model: Model, gone: set[Digest]) -> None:
    """It was looked at while it was held."""
    repository, relations = model.built()
    for digest in gone & model.held:
        for tag in [tag for tag, record in repository.tags.items() if record.digest == digest]:
            repository.untag(tag)
            del model.tags[tag]
            model.about.pop(tag, None)
        repository.drop(digest)
    model.held -= gone
    for digest in model.held:
        assert relations.kept(repository, (), [digest]).manifests == model.kept({digest})
        child = any(index in model.held for index, each in model.children if each == digest)
        refers = model.subjects.get(digest) in model.held
        assert relations.is_implied(repository, digest, None) == (child or refers)


@given(models(), st.lists(st.sampled_from(NODES)), st.sets(st.sampled_from(NODES)), st.sets(st.sampled_from(NODES)))
@settings(deadline=None, max_examples=100)
def test_what_is_removed_leaves_nothing_behind(
    model: Model, again: list[Digest], pulled: set[Digest], gone: set[Digest]
) -> None:
    """As if it had never been there, however often it was added, and by whom: what it alone named is not known now."""
    repository, relations = Repository("docker.io", "app"), Relations()
    for confirm in (True, False):
        for digest in [*sorted(model.held), *again]:
            if digest in model.held and (confirm or digest not in pulled):
                repository.hold(digest, OCI_MANIFEST, 1, confirm)
                relations.add(digest, model.manifest(digest), repository.manifests[digest])
    for digest in gone:
        relations.remove(digest)
    fresh = Relations()
    for digest in sorted(model.held - gone):
        fresh.add(digest, model.manifest(digest), repository.manifests[digest])
    assert vars_of(relations) == vars_of(fresh)


def vars_of(relations: Relations) -> dict[str, object]:
    """All there is of it, whatever came first."""
    return vars(relations) | {"parents": {child: sorted(each) for child, each in relations.parents.items()}}


def test_an_index_goes_with_its_children_and_with_what_refers_to_them() -> None:
    """One platform is used by another index as well: that one, and its signature, stay with it."""
    old, new, amd64, arm64, signature, sbom = NODES[5], NODES[6], NODES[0], NODES[1], NODES[2], NODES[3]
    tag = cosign_tags(amd64)[-1]
    model = Model(
        held={old, new, amd64, arm64, signature, sbom},
        children={(old, amd64), (old, arm64), (new, amd64)},
        subjects={sbom: arm64},
        blobs={(amd64, BLOBS[0]), (arm64, BLOBS[0]), (arm64, BLOBS[1]), (signature, BLOBS[2]), (sbom, BLOBS[3])},
        tags={"1": old, "2": new, tag: signature},
        about={tag: amd64},
    )
    repository, relations = model.built()
    assert relations.roots(repository) == (["1", "2"], [])
    kept = relations.kept(repository, ["2"], ())
    assert (kept.tags, kept.manifests) == ({"2", tag}, {new, amd64, signature})
    assert kept.blobs == {new, amd64, signature, BLOBS[0], BLOBS[2]}


def test_tags_that_are_about_each_other_are_kept_by_a_root() -> None:
    """
    Each is brought along by the other, and by nothing else: they would be let go unseen. So with an index that refers
    to its own child.
    """
    one, other = NODES[0], NODES[1]
    tags = {cosign_tags(one)[0]: other, cosign_tags(other)[0]: one}
    repository, relations = Model({one, other}, set(), {}, set(), tags).built()
    assert relations.roots(repository) == ([], [min(one, other)])
    index, child = NODES[1], NODES[0]
    repository, relations = Model({index, child}, {(index, child)}, {index: child}, set(), {}).built()
    assert relations.roots(repository) == ([], [min(index, child)])
