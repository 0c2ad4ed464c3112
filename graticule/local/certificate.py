"""The certificate that the parts of the S3 server show each other.

SeaweedFS's internal gRPC ports would serve whoever connects; with mutual TLS they serve only who holds this key. The
certificate is its own authority: nobody else has to trust it. It is put together by hand because the standard library
cannot make certificates and pycryptodome, which comes with the minio client, knows the elements but not the whole.
"""

from __future__ import annotations

import base64
import secrets

from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS
from Crypto.Util.asn1 import DerBitString, DerBoolean, DerInteger, DerObjectId, DerOctetString, DerSequence, DerSetOf

_ECDSA_WITH_SHA256 = "1.2.840.10045.4.3.2"
_COMMON_NAME = "2.5.4.3"
_BASIC_CONSTRAINTS, _ALTERNATIVE_NAME = "2.5.29.19", "2.5.29.17"
_UTC_TIME, _GENERALIZED_TIME, _UTF8_STRING = 0x17, 0x18, 0x0C
_VERSION, _EXTENSIONS, _IP_ADDRESS = 0xA0, 0xA3, 0x87
_X509_VERSION_3 = 2
_LOOPBACK = bytes([127, 0, 0, 1])


def self_signed(name: str) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that does not expire, and its private key, both as PEM."""
    key = ECC.generate(curve="P-256")
    body = _body(name, key.public_key().export_key(format="DER"))
    signature = DSS.new(key, "fips-186-3", encoding="der").sign(SHA256.new(body))
    certificate = _sequence(body, _algorithm(), DerBitString(signature).encode())
    return _pem(certificate), f"{key.export_key(format='PEM')}\n"


def _body(name: str, public_key: bytes) -> bytes:
    subject = _name(name)
    return _sequence(
        _tagged(_VERSION, DerInteger(_X509_VERSION_3).encode()),
        DerInteger(secrets.randbits(120)).encode(),
        _algorithm(),
        subject,
        _sequence(_tagged(_UTC_TIME, b"200101000000Z"), _tagged(_GENERALIZED_TIME, b"99991231235959Z")),
        subject,
        public_key,
        _extensions(),
    )


def _algorithm() -> bytes:
    return _sequence(DerObjectId(_ECDSA_WITH_SHA256).encode())


def _name(name: str) -> bytes:
    attribute = _sequence(DerObjectId(_COMMON_NAME).encode(), _tagged(_UTF8_STRING, name.encode()))
    return _sequence(DerSetOf([attribute]).encode())


def _extensions() -> bytes:
    authority = _sequence(DerBoolean(True).encode())
    address = _sequence(_tagged(_IP_ADDRESS, _LOOPBACK))
    constraints = _sequence(
        DerObjectId(_BASIC_CONSTRAINTS).encode(), DerBoolean(True).encode(), DerOctetString(authority).encode()
    )
    alternative = _sequence(DerObjectId(_ALTERNATIVE_NAME).encode(), DerOctetString(address).encode())
    return _tagged(_EXTENSIONS, _sequence(constraints, alternative))


def _sequence(*elements: bytes) -> bytes:
    return DerSequence(list(elements)).encode()


def _tagged(tag: int, content: bytes) -> bytes:
    """An element whose tag pycryptodome has no class for."""
    return bytes([tag]) + _length(len(content)) + content


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    digits = size.to_bytes(2, "big").lstrip(b"\0")
    return bytes([0x80 | len(digits)]) + digits


def _pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"
