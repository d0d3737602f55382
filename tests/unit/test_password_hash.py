"""A password leaves the harness as yescrypt, which crypt(3) of every node can read."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passlib.hash import sha512_crypt

from provision import password_hash
from provision.password_hash import SALT_BYTES, crypt, hash_password

SALT = bytes(range(SALT_BYTES))


def test_a_hash_is_yescrypt_and_salted() -> None:
    one, two = hash_password("hunter2"), hash_password("hunter2")
    assert one != two and one.startswith("$y$j9T$")
    assert (crypt("hunter2", one), crypt("hunter3", one) == one) == (one, False)


def test_a_given_salt_makes_it_the_same_each_time() -> None:
    assert hash_password("hunter2", SALT) == hash_password("hunter2", SALT)
    assert hash_password("hunter2", SALT) != hash_password("hunter2", SALT[::-1])


def test_it_is_the_one_that_perls_crypt_makes() -> None:
    """perl-base is on every Debian, and calls crypt(3) by itself."""
    hashed = hash_password("hünter2", SALT)
    script = "$p = <STDIN>; chomp $p; print crypt($p, $ARGV[0])"
    made = subprocess.run(
        ["perl", "-e", script, hashed], input="hünter2\n", text=True, capture_output=True, check=True
    )
    assert made.stdout == hashed


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=128))
def test_every_password_that_a_lab_may_have_has_a_hash(plain: str) -> None:
    hashed = hash_password(plain)
    assert crypt(plain, hashed) == hashed if hashed.startswith("$y$") else len(plain.encode()) >= 512
    assert hashed.isascii() and hashed.isprintable() and ":" not in hashed


def test_without_yescrypt_it_is_sha512_with_many_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password_hash, "_library", lambda: None)
    one = hash_password("hunter2", SALT)
    assert one == hash_password("hunter2", SALT) and one.startswith("$6$rounds=200000$")
    assert sha512_crypt.verify("hunter2", one)
    assert hash_password("hunter2") != one


def test_what_is_no_setting() -> None:
    assert crypt("hunter2", "*0") is None
