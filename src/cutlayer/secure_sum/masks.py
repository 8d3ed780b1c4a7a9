"""Keys that two devices agree on, and random numbers and seals made with them."""

import hashlib

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cutlayer.errors import FrameError
from cutlayer.secure_sum.fixed_point import Words

KEY_BYTES = 32
_NONCE = bytes(12)  # constant, since each key seals only one message
_START = bytes(16)  # constant, since each key gives only one stream


def public_of(private: bytes) -> bytes:
    """The public key of a private one (X25519)."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed_key(private: bytes, public: bytes, *purpose: object) -> bytes:
    """The key of two devices for one purpose, from one's private and the other's public key.

    Raises FrameError for a public key that would give a known secret.
    """
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise FrameError("secure sum: a public key is not sound: run the same cutlayer") from None
    info = "\x1f".join(["cutlayer secure sum", *map(str, purpose)]).encode()
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


def stream(key: bytes, count: int) -> Words:
    """`count` random numbers below 2^32 that follow from a key (ChaCha20)."""
    bits = Cipher(ChaCha20(key, _START), mode=None).encryptor().update(bytes(4 * count))
    return np.frombuffer(bits, dtype="<u4").astype(np.uint32)


def seal(key: bytes, plain: bytes) -> bytes:
    """`plain`, encrypted and authenticated; the key must not seal anything else."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plain, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The plain bytes of `sealed`. Raises FrameError for bytes that this key did not seal."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        raise FrameError(
            "secure sum: shares were damaged on their way: have them sent again"
        ) from None


def digest(seed: bytes) -> bytes:
    """A hash of a device's seed, sent beforehand so that a false share of the seed is detected."""
    return hashlib.sha256(b"cutlayer secure sum seed" + seed).digest()
