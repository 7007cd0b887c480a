"""Makes a VM's token for OneGate; no I/O.

The core writes it to a context disk that a cloud's instance does not have (src/vm/VirtualMachineContext.cc,
generate_context), and upstream's drivers ec2 and one made it themselves up to 6.x. OneGate decrypts it with the
password of the user in CREATED_BY (src/cloud/common/CloudAuth/OneGateCloudAuth.rb).
"""

from __future__ import annotations

import base64

KEY_LENGTH = 32
"""Bytes of TOKEN_PASSWORD that are the key; OneGate refuses every token of a user whose password is shorter."""

_NO_IV = bytes(16)  # OpenNebula and OneGate give OpenSSL none, which means zeros


def onegate_token(*, vm_id: int, stime: int, token_password: str) -> str:
    """Return the token: `VM ID:STIME` under AES-256 in CBC mode, in base64. The same arguments give the same token.

    The first call loads a library: not for the event loop.

    Args:
        vm_id: the VM's number.
        stime: the VM's STIME.
        token_password: TOKEN_PASSWORD of the user in CREATED_BY, at least `KEY_LENGTH` bytes.

    Raises:
        ValueError: the password is too short.
    """
    # Imported late: it takes 0.1 s and 10 MB, and few VMs want a token.
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.ciphers.modes import CBC
    from cryptography.hazmat.primitives.padding import PKCS7

    key = token_password.encode()[:KEY_LENGTH]
    padder = PKCS7(AES256.block_size).padder()
    padded = padder.update(f"{vm_id}:{stime}".encode()) + padder.finalize()
    encryptor = Cipher(AES256(key), CBC(_NO_IV)).encryptor()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()
