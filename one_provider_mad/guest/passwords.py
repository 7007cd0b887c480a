"""Hashes passwords as Linux guests keep them, so that no user data holds a plain one."""

from __future__ import annotations

import hashlib

ROUNDS = 5000
"""Rounds of SHA-512 crypt that every libcrypt uses when a hash names none (crypt(5)); one hash takes 6 ms."""

_SALT_LENGTH = 16


def hashed(password: str, *, purpose: str) -> str:
    """Return the password's SHA-512 crypt hash, `$6$...`, always the same for the same arguments.

    Args:
        password: plain, of any length.
        purpose: what the hash is for, such as the VM and its STIME; the salt is made of it, and never of the password.
    """
    from passlib.hash import sha512_crypt

    salt = hashlib.sha256(purpose.encode()).hexdigest()[:_SALT_LENGTH]
    text: str = sha512_crypt.using(rounds=ROUNDS, salt=salt).hash(password)
    return text
