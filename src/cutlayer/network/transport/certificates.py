"""Makes, signs and reads certificates and revocation lists of a fleet, without touching files."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cutlayer.errors import KeysError

AUTHORITY_DAYS = 3650
DAYS = 730
# The clock of a board without a battery may be behind, so certificates are valid this much earlier.
_SKEW = timedelta(days=2)
_DEVICE_URI = "urn:cutlayer:device:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")

PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Pair:
    """A private key (ECDSA P-256) and the certificate of its public half."""

    key: PrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """The key as unencrypted PKCS #8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def check_name(name: str) -> str:
    """A device's name, unchanged. Raises KeysError if it has characters that are not safe."""
    if not _NAME.fullmatch(name):
        raise KeysError(
            f"device name: {name!r} is not allowed: take 1 to 63 letters, digits, '.', '_' or '-', "
            "the first a letter or digit"
        )
    return name


def make_authority(days: int = AUTHORITY_DAYS) -> Pair:
    """A new certificate authority, which signs every certificate of one fleet."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The name holds a part of the key, so that authorities of two fleets have different names.
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:12]
    name = _common_name(f"cutlayer fleet {mark}")
    builder = (
        _builder(name, name, key, datetime.now(UTC) + _days(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return Pair(key, builder.sign(key, hashes.SHA256()))


def make_server(authority: Pair, hosts: Sequence[str], days: int = DAYS) -> Pair:
    """A certificate of the edge server, for the names and IP addresses devices reach it by."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _HOST.fullmatch(host):
                raise KeysError(
                    f"server: {host!r} is neither a host name nor an IP address: give the one that "
                    "devices will join, as in edge.local or 192.168.1.10"
                ) from None
            names.append(x509.DNSName(host))
    if not names:
        raise KeysError("server: no host was given: name the one devices join, as in edge.local")
    return _leaf(authority, "cutlayer server", names, ExtendedKeyUsageOID.SERVER_AUTH, days)


def server_hosts(certificate: x509.Certificate) -> list[str]:
    """The names and addresses of a server's certificate. Raises KeysError where it has none."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        raise KeysError(
            "certificate: the server's names no host: make one with cutlayer keys server"
        ) from None
    addresses = found.get_values_for_type(x509.IPAddress)
    return [*found.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)]


def make_device(authority: Pair, name: str, days: int = DAYS) -> Pair:
    """A certificate of one device: its name is the common name and a URI urn:cutlayer:device:."""
    uri = x509.UniformResourceIdentifier(_DEVICE_URI + check_name(name))
    return _leaf(authority, name, [uri], ExtendedKeyUsageOID.CLIENT_AUTH, days)


def device_name(certificate: x509.Certificate) -> str:
    """The device's name in its certificate. Raises KeysError for any other certificate."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = found.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    if len(uris) != 1 or not uris[0].startswith(_DEVICE_URI):
        raise KeysError(
            "certificate: it names no device: make one with cutlayer keys device and give its "
            "folder"
        )
    return check_name(uris[0].removeprefix(_DEVICE_URI))


def make_revocations(authority: Pair, revoked: Mapping[int, datetime]) -> bytes:
    """The signed revocation list (PEM) of some serial numbers and when each was revoked."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now)
        .next_update(authority.certificate.not_valid_after_utc + _days(1))
    )
    for serial, when in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
        builder = builder.add_revoked_certificate(entry.build())
    signed = builder.sign(authority.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def read_revocations(pem: bytes, authorities: Sequence[x509.Certificate]) -> dict[int, datetime]:
    """Serial numbers of a revocation list and when each was revoked. Raises KeysError unless one of
    `authorities` signed the list.
    """
    try:
        found = x509.load_pem_x509_crl(pem)
        publics = [authority.public_key() for authority in authorities]
        genuine = any(
            isinstance(public, ec.EllipticCurvePublicKey) and found.is_signature_valid(public)
            for public in publics
        )
    except ValueError:
        genuine = False
    if not genuine:
        raise KeysError(
            "revocation list: it is damaged or another authority signed it: restore it from the "
            "folder that cutlayer keys init made"
        )
    return {entry.serial_number: entry.revocation_date_utc for entry in found}


def _leaf(
    authority: Pair,
    common_name: str,
    names: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    days: int,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(datetime.now(UTC) + _days(days), authority.certificate.not_valid_after_utc)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(_common_name(common_name), authority.certificate.subject, key, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(signer, critical=False)
    )
    return Pair(key, builder.sign(authority.key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, until: datetime
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # An end before the start cannot be signed, but tests need certificates that have expired.
        .not_valid_before(min(datetime.now(UTC), until) - _SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _days(days: int) -> timedelta:
    return timedelta(days=days)
