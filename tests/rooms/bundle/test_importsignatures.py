"""Which signatures an import wants, and that what was changed is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.bundle.minisign import PublicKey, SecretKey, TrustPolicy
from appliance.errors import (
    BundleUntrusted,
)
from tests.doubles import archives
from tests.doubles.receiver import Receiver
from tests.rooms.bundle.importing import OTHER, site, write


def signed(tmp_path: Path, key: SecretKey, name: str = "signed.tar") -> Path:
    made = site()
    export = made.export(all=True)
    export.sign(key.sign(export.document, "from site a"))
    return write(tmp_path, made.file(export), name)


def test_the_signature_of_a_trusted_key_is_named_in_the_receipt(tmp_path: Path) -> None:
    """Who vouches for what is served can be looked up later."""
    key = SecretKey.generate()
    receipt = Receiver(TrustPolicy((key.public,))).run(signed(tmp_path, key))
    assert (receipt.signer, receipt.comment, receipt.notes) == (key.public.key_id, "from site a", [])


def test_an_unsigned_bundle_is_refused_where_a_key_is_trusted(bundle: Path) -> None:
    """Else it would be enough to cut the signature off."""
    receiver = Receiver(TrustPolicy((SecretKey.generate().public,)))
    with pytest.raises(BundleUntrusted, match="bundle.tar: it is not signed.*--sign"):
        receiver.run(bundle)
    assert (receiver.names(), receiver.held()) == ({}, 0)


def test_an_unsigned_bundle_is_refused_where_a_signature_is_required(tmp_path: Path, bundle: Path) -> None:
    """And a signed one, while no key is trusted."""
    receiver = Receiver(TrustPolicy(require_signature=True))
    with pytest.raises(BundleUntrusted, match="not signed"):
        receiver.run(bundle)
    with pytest.raises(BundleUntrusted, match="no key is trusted"):
        receiver.run(signed(tmp_path, SecretKey.generate()))


def test_a_foreign_key_is_refused(tmp_path: Path) -> None:
    """A signature by an unknown key proves nothing."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    with pytest.raises(BundleUntrusted, match=f"signed.tar: .*{theirs.public.key_id}.*not trusted"):
        Receiver(TrustPolicy((ours.public,))).run(signed(tmp_path, theirs))


def test_a_key_given_with_the_import_is_trusted_for_it(tmp_path: Path, bundle: Path) -> None:
    """And makes it as strict as a configured one."""
    key = SecretKey.generate()
    receiver = Receiver()
    assert receiver.run(signed(tmp_path, key), trust=(key.public,)).signer == key.public.key_id
    with pytest.raises(BundleUntrusted, match="not signed"):
        receiver.run(bundle, trust=(key.public,))


def test_a_key_given_with_the_import_chooses_among_the_configured_ones(tmp_path: Path) -> None:
    """Only these: the other configured key is not trusted for this import."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    policy = TrustPolicy((ours.public, theirs.public), require_signature=True)
    path = signed(tmp_path, theirs)
    assert Receiver(policy).run(path, trust=(theirs.public,)).signer == theirs.public.key_id
    receiver = Receiver(policy)
    with pytest.raises(BundleUntrusted, match=f"{theirs.public.key_id}, which is not trusted here"):
        receiver.run(path, trust=(ours.public,))
    assert (receiver.names(), receiver.held()) == ({}, 0)


@pytest.mark.parametrize("require", [True, False])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_key_given_with_the_import_adds_nothing_to_the_configured_ones(
    tmp_path: Path, require: bool, dry_run: bool
) -> None:
    """Who may order an import cannot have a stranger's bundle taken; the message has the line to be configured."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    receiver = Receiver(TrustPolicy((ours.public,), require))
    for keys in ((theirs.public,), (ours.public, theirs.public)):
        with pytest.raises(BundleUntrusted, match="none of those that this appliance trusts") as caught:
            receiver.run(signed(tmp_path, theirs), trust=keys, dry_run=dry_run)
        assert f"bundles: {{trust: [..., {theirs.public}]}}" in str(caught.value)
    assert (receiver.names(), receiver.held()) == ({}, 0)


def test_another_key_that_only_calls_itself_like_a_configured_one_is_not_it(tmp_path: Path) -> None:
    """A key's id is eight bytes that every signer can choose."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    namesake = PublicKey(ours.public.key_id, theirs.public.raw)
    with pytest.raises(BundleUntrusted, match="none of those that this appliance trusts"):
        Receiver(TrustPolicy((ours.public,))).run(signed(tmp_path, theirs), trust=(namesake,))


def test_callers_may_name_any_key_where_the_configuration_says_so(tmp_path: Path) -> None:
    """And then it is the only one: what the configured key signed is not taken for that import."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    policy = TrustPolicy((ours.public,), accept_callers_keys=True)
    path = signed(tmp_path, theirs)
    assert Receiver(policy).run(path, trust=(theirs.public,)).signer == theirs.public.key_id
    with pytest.raises(BundleUntrusted):
        Receiver(policy).run(path)
    with pytest.raises(BundleUntrusted):
        Receiver(policy).run(signed(tmp_path, ours, "ours.tar"), trust=(theirs.public,))


def test_a_signature_that_is_required_may_be_by_the_callers_key_where_none_is_configured(
    tmp_path: Path, bundle: Path
) -> None:
    """The caller's keys are the only ones then; what is not signed stays refused."""
    key = SecretKey.generate()
    policy = TrustPolicy(require_signature=True)
    assert Receiver(policy).run(signed(tmp_path, key), trust=(key.public,)).signer == key.public.key_id
    with pytest.raises(BundleUntrusted, match="not signed"):
        Receiver(policy).run(bundle, trust=(key.public,))


def test_a_changed_list_of_contents_is_refused_by_its_signature(tmp_path: Path) -> None:
    """Before anything in it is believed."""
    key = SecretKey.generate()
    data = signed(tmp_path, key).read_bytes().replace(b'"site":"site-a"', b'"site":"site-x"', 1)
    with pytest.raises(BundleUntrusted, match="is wrong"):
        Receiver(TrustPolicy((key.public,))).run(write(tmp_path, data))


def test_another_tools_archive_is_refused_where_a_signature_is_required(tmp_path: Path) -> None:
    """It cannot have been signed."""
    path = write(tmp_path, archives.tar(archives.skopeo_oci(OTHER, "nginx:1")))
    with pytest.raises(BundleUntrusted, match="is an OCI image layout, which carries no signature"):
        Receiver(TrustPolicy((SecretKey.generate().public,))).run(path)
