"""Signatures: mine are verified by minisign and minisign's by me, and nothing else passes for one."""

from __future__ import annotations

import base64
import hashlib
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle import minisign
from appliance.bundle.minisign import PublicKey, SecretKey, verify
from appliance.errors import BundleError, BundleUntrusted

DATA = b'{"a bundle": 1}'
KEY = SecretKey("00000000000000AB", bytes(range(32)))
OTHER = SecretKey("00000000000000CD", bytes(32))
SIGNATURE = KEY.sign(DATA, "bundle sha256:1")

# Made by minisign 0.11 for a test and used nowhere else: -G -W, then -S of b"hi\n".
THEIR_SECRET = (
    "untrusted comment: minisign encrypted secret key\n"
    "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAkkbsgkqvd8K6TDB1KijkXVWsZ1ARyH+42puFsIS8"
    "zSCOW/VTf4slgn2V9qPaExyB2UcXyD+o88+Pu1/ur7jPJ9jKcD7lr5MeAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
)
THEIR_LINE = "RWSSRuyCSq93wn2V9qPaExyB2UcXyD+o88+Pu1/ur7jPJ9jKcD7lr5Me"
THEIR_PUBLIC = f"untrusted comment: minisign public key C277AF4A82EC4692\n{THEIR_LINE}\n"
THEIR_SIGNATURE = (
    "untrusted comment: signature from minisign secret key\n"
    "RUSSRuyCSq93wujmBhdoh22IzfONmwoFexF5YX3UGiq6/AFnSGaYaBxouWn68yeUgxWrE4r7n2Zpuy62Fh3P9g0dBKLTFX0oCAY=\n"
    "trusted comment: trusted x\n"
    "xVTssqMHEyE9edwg+KdqC+PRgg+X0HNnJp3uiaYwZc0e15Mp70hUMpiAjEFLjk6+LtxByAGwUyXMXmJufXnXDA==\n"
)
THEIR_LEGACY_SIGNATURE = (
    "untrusted comment: signature from minisign secret key\n"
    "RWSSRuyCSq93wokdEAiOdv/zFkXlGeHJY5J2NvN/VKsh5pepV2w9oCb9o1sfp2QNvcOfc6bwpV22lJQMd7mZaPpE71z+X7aosQM=\n"
    "trusted comment: timestamp:1795249923\tfile:f\n"
    "E02QQq4ytD9qsjz7ahyGpX1pleP3VyYcyW8nDXq/u3DKwo0AaoJx0pYY+/7/HitSNpW7lSlAFr2XUd5yPMG5Aw==\n"
)


def sealed(key: SecretKey, password: str, operations: int = 2**15, memory: int = 2**20) -> str:
    """A secret key file with a password that is cheap to try."""
    data = bytearray(base64.b64decode(key.danger_dump().splitlines()[1]))
    salt = bytes(range(32))
    data[2:4] = b"Sc"
    data[6:54] = salt + operations.to_bytes(8, "little") + memory.to_bytes(8, "little")
    data[126:] = hashlib.blake2b(b"Ed" + data[54:126], digest_size=32).digest()
    stream = hashlib.scrypt(password.encode(), salt=salt, n=1024, r=8, p=1, dklen=104)
    data[54:] = bytes(a ^ b for a, b in zip(data[54:], stream, strict=True))
    return "untrusted comment: x\n" + base64.b64encode(data).decode() + "\n"


# -- with minisign itself -------------------------------------------------------------------------------------------


def test_a_signature_of_minisign_is_verified() -> None:
    """I may sign with the program I have already."""
    key = PublicKey.parse(THEIR_PUBLIC)
    assert verify(b"hi\n", THEIR_SIGNATURE, [key]) == (key, "trusted x")
    assert verify(b"hi\n", THEIR_SIGNATURE.replace("\n", "\r\n"), [key]) == (key, "trusted x")


def test_a_key_of_minisign_signs() -> None:
    """I may keep the key I have; its file comes out as it went in."""
    key = SecretKey.load(THEIR_SECRET)
    assert key.public == PublicKey.parse(THEIR_PUBLIC) == PublicKey.parse(THEIR_LINE)
    assert (key.public.key_id, key.danger_dump()) == ("C277AF4A82EC4692", THEIR_SECRET)
    assert (str(key.public), key.public.dump()) == (THEIR_LINE, THEIR_PUBLIC)
    # Ed25519 is deterministic: the program's own two lines.
    assert key.sign(b"hi\n", "trusted x").splitlines()[1:] == THEIR_SIGNATURE.splitlines()[1:]


def test_a_signature_in_the_old_form_is_refused_with_advice() -> None:
    """I am told why, and what to do."""
    with pytest.raises(BundleUntrusted, match="without -l"):
        verify(b"hi\n", THEIR_LEGACY_SIGNATURE, [PublicKey.parse(THEIR_PUBLIC)])


def test_minisign_verifies_and_signs_with_what_is_written_here(tmp_path: Path) -> None:
    """A user who does not trust this program may check with the other."""
    program = shutil.which("minisign")
    if program is None:
        pytest.skip("no minisign here")
    key = SecretKey.generate()
    key.save(tmp_path / "key")
    (tmp_path / "pub").write_text(key.public.dump())
    (tmp_path / "bundle.json").write_bytes(DATA)
    (tmp_path / "bundle.json.minisig").write_text(key.sign(DATA, "made in Zürich"))
    check = [program, "-V", "-H", "-m", "bundle.json", "-P", str(key.public)]
    assert "made in Zürich" in subprocess.run(check, cwd=tmp_path, capture_output=True, check=True).stdout.decode()
    subprocess.run([program, "-S", "-s", "key", "-m", "bundle.json"], cwd=tmp_path, check=True, capture_output=True)
    signer, comment = verify(DATA, (tmp_path / "bundle.json.minisig").read_text(), [key.public])
    assert (signer, comment.split("\t")[1]) == (key.public, "file:bundle.json")


# -- our own --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100), st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=30))
def test_what_was_signed_is_verified(data: bytes, comment: str) -> None:
    """Any bytes and any line of comment."""
    assert verify(data, KEY.sign(data, comment), [OTHER.public, KEY.public]) == (KEY.public, comment)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_changed_bytes_are_not_what_was_signed(position: int, flip: int) -> None:
    """One changed byte anywhere is enough."""
    changed = DATA[:position] + bytes([DATA[position] ^ flip]) + DATA[position + 1 :]
    with pytest.raises(BundleUntrusted, match="signature by key 00000000000000AB is wrong"):
        verify(changed, SIGNATURE, [KEY.public])


@given(st.integers(0, len(SIGNATURE) - 2), st.characters(codec="utf-8"))
def test_a_changed_signature_is_none(position: int, character: str) -> None:
    """Nothing in the file can be changed but the comment that is not signed."""
    changed = SIGNATURE[:position] + character + SIGNATURE[position + 1 :]
    if changed.partition("\n")[2].rstrip("\r\n") == SIGNATURE.partition("\n")[2].rstrip("\r\n"):
        return
    with pytest.raises(BundleUntrusted):
        verify(DATA, changed, [KEY.public])


def test_a_signature_has_one_spelling() -> None:
    """Two files that differ are not the same signature: the spare bits of base64 are not for notes."""
    line = SIGNATURE.split("\n")[1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = line[:-2] + alphabet[alphabet.index(line[-2]) + 1] + "="
    assert base64.b64decode(other) == base64.b64decode(line)
    with pytest.raises(BundleUntrusted, match="base64"):
        verify(DATA, SIGNATURE.replace(line, other), [KEY.public])


def test_the_trusted_comment_is_signed_too() -> None:
    """The trusted comment is signed, too."""
    with pytest.raises(BundleUntrusted):
        verify(DATA, SIGNATURE.replace("bundle sha256:1", "bundle sha256:2"), [KEY.public])


def test_a_foreign_key_is_not_trusted_whatever_it_is_called() -> None:
    """A signature by another key is refused, with both ids; taking the id of a trusted key does not help."""
    with pytest.raises(BundleUntrusted, match=r"by key 00000000000000CD.*\(trusted: 00000000000000AB\)"):
        verify(DATA, OTHER.sign(DATA, ""), [KEY.public])
    with pytest.raises(BundleUntrusted, match="trusted: none"):
        verify(DATA, SIGNATURE, [])
    disguised = SecretKey(KEY.public.key_id, bytes(32))
    with pytest.raises(BundleUntrusted, match="is wrong"):
        verify(DATA, disguised.sign(DATA, ""), [KEY.public])
    assert verify(DATA, disguised.sign(DATA, ""), [KEY.public, disguised.public])[0] == disguised.public


@pytest.mark.parametrize("comment", ["two\nlines", "\r", "\x1b[2J", "\u2028", "x" * 8193, "\ud800"])
def test_a_comment_is_one_line(comment: str) -> None:
    """A comment cannot pass for another line of the file, nor clear my terminal."""
    try:
        made = KEY.sign(DATA, comment)
    except BundleError as error:
        assert "one line" in str(error)
    else:
        pytest.fail(made)


def test_a_comment_that_was_signed_with_control_characters_is_not_shown() -> None:
    """Not even a trusted signer writes to my terminal."""
    lines = SIGNATURE.split("\n")
    made = base64.b64decode(lines[1])[10:]
    whole = KEY._danger_key.sign(made + b"\x1b[2J")
    lines[2:4] = ["trusted comment: \x1b[2J", base64.b64encode(whole).decode()]
    with pytest.raises(BundleUntrusted, match="control characters"):
        verify(DATA, "\n".join(lines), [KEY.public])


@given(st.text(st.characters(), max_size=200))
def test_any_text_is_a_signature_or_refused(text: str) -> None:
    """Rubbish for a signature or a key is refused, and nothing else ever happens."""
    with pytest.raises(BundleUntrusted):
        verify(DATA, text, [KEY.public])
    with pytest.raises(BundleError):
        PublicKey.parse(text)
    with pytest.raises(BundleError):
        SecretKey.load(text)


@pytest.mark.parametrize("size", [minisign.MAX_SIGNATURE_BYTES, 10**6])
def test_an_endless_signature_is_not_read(size: int) -> None:
    """A signature is small."""
    with pytest.raises(BundleUntrusted, match="too long"):
        verify(DATA, SIGNATURE + " " * size, [KEY.public])


# -- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_survives_its_file(tmp_path: Path) -> None:
    """The key I made is the key I load, and only I may read its file."""
    key = SecretKey.generate()
    key.save(tmp_path / "key")
    again = SecretKey.load((tmp_path / "key").read_text())
    assert again.public == key.public == PublicKey.parse(key.public.dump())
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert SecretKey.generate().public != key.public


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """keygen does not destroy the key that all my sites trust."""
    KEY.save(tmp_path / "key")
    with pytest.raises(BundleError, match="exists"):
        OTHER.save(tmp_path / "key")
    assert SecretKey.load((tmp_path / "key").read_text()).public == KEY.public


def test_the_secret_is_in_no_representation() -> None:
    """What goes into logs and error messages names the key and does not hold it."""
    assert repr(KEY) == str(KEY) == "<SecretKey 00000000000000AB>"
    assert repr(KEY.public) == "<PublicKey 00000000000000AB>"
    line = KEY.danger_dump().splitlines()[1]
    for text in (line, KEY.danger_dump()):
        with pytest.raises(BundleError) as caught:
            PublicKey.parse(text)
        assert line[:20] not in str(caught.value)


def test_a_key_with_a_password_needs_it() -> None:
    """The key file that minisign encrypted is read with the right password and no other."""
    text = sealed(KEY, "secret")
    assert SecretKey.load(text, "secret").public == KEY.public
    with pytest.raises(BundleError, match="password is wrong"):
        SecretKey.load(text, "Secret")
    with pytest.raises(BundleError, match="has a password"):
        SecretKey.load(text)


@pytest.mark.parametrize(
    ("operations", "memory", "expected"),
    [
        # What libsodium 1.0.18 takes: its sensitive limits, its interactive ones, and the least of each.
        (33554432, 1073741824, (2**20, 8, 1)),
        (524288, 16777216, (2**14, 8, 1)),
        (32768, 16777216, (2**10, 8, 1)),
        (0, 2**20, (2**10, 8, 1)),
    ],
)
def test_the_cost_of_a_password_is_the_programs(operations: int, memory: int, expected: tuple[int, int, int]) -> None:
    """A password is tried the way minisign does it."""
    assert minisign._scrypt_cost(operations, memory) == expected


@pytest.mark.parametrize(("operations", "memory"), [(2**40, 2**40), (2**63, 2**63), (2**63, 0), (2**40, 2**20)])
def test_a_password_cannot_cost_everything(operations: int, memory: int) -> None:
    """A damaged key file does not take all memory, or all day."""
    with pytest.raises(BundleError, match="asks for more"):
        minisign._scrypt_cost(operations, memory)


@given(st.integers(54, 125), st.integers(1, 255))
def test_a_damaged_key_does_not_sign(position: int, flip: int) -> None:
    """A key file with a flipped bit is refused, not used."""
    data = bytearray(base64.b64decode(sealed(KEY, "secret").splitlines()[1]))
    data[position] ^= flip
    with pytest.raises(BundleError):
        SecretKey.load(base64.b64encode(data).decode(), "secret")
