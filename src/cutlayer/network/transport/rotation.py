"""Replaces the authority of a fleet by a new one while server and devices run.

    rotate    a new authority signs from now on, and the earlier one is trusted too: `authority.crt`
              holds both, and every device has a new certificate to be copied to it
    (then)    devices get their folders, one after another; the server's certificate is made anew
    retire    the earlier authority is trusted no more

Whatever stops it in between, either authority still signs all that is needed: what is left is done
by `renew` and `retire`.
"""

from pathlib import Path

from cutlayer.errors import KeysError
from cutlayer.files import write_atomically
from cutlayer.network.transport import certificates as making
from cutlayer.network.transport.key_files import (
    AUTHORITY,
    DEVICE,
    DEVICES,
    REVOKED,
    SERVER,
    load_authorities,
    load_authority,
    load_certificate,
    load_valid_authority,
    write_authorities,
    writing,
)
from cutlayer.network.transport.keys import list_issued, make_bundle, revocations


def rotate(folder: Path, days: int = making.AUTHORITY_DAYS) -> list[Path]:
    """Make a new authority beside the one before, and with it a certificate for every device.

    days: how long the new authority is valid. Returns the folders to copy to the devices; those
    whose certificates were all revoked get none. The server's certificate is left as it is, since
    devices do not trust the new authority yet. Raises KeysError where two are trusted already.
    """
    before = load_authority(folder)
    if len(load_authorities(folder)) > 1:
        raise KeysError(
            f"keys: {folder} trusts two authorities already: end the change that is under way "
            "with cutlayer keys retire"
        )
    known = list_issued(folder)
    names = sorted({one.device for one in known if one.device and one.revoked is None})
    revoked = revocations(folder)
    new = making.make_authority(days)
    with writing(folder):
        # In this order: at every moment the key belongs to one of those that are trusted.
        write_authorities(folder, [new.certificate, before.certificate])
        write_atomically(folder / f"{AUTHORITY}.key", new.key_pem, mode=0o600)
        write_atomically(folder / REVOKED, making.make_revocations(new, revoked))
    return [make_bundle(folder, new, name, making.DAYS) for name in names]


def retire(folder: Path) -> int:
    """Trust the authority that signs, and no other; returns how many certificates that shuts out.

    Raises KeysError where there is none to retire, or where the server or a device that is not
    revoked has no certificate of the authority that stays.
    """
    authority = load_valid_authority(folder)
    if len(load_authorities(folder)) == 1:
        raise KeysError(
            f"keys: {folder} trusts one authority, and none besides that could be retired: "
            "cutlayer keys rotate makes a new one"
        )
    stays = authority.certificate.subject
    server = folder / f"{SERVER}.crt"
    if server.exists() and load_certificate(server).issuer != stays:
        raise KeysError(
            f"keys: {server} is of the authority that would be retired: make it anew first, with "
            "cutlayer keys renew"
        )
    valid = [known for known in list_issued(folder) if known.valid]
    moved = {known.device for known in valid if known.issuer == stays}
    for known in valid:
        if known.device not in moved:
            raise KeysError(
                f"keys: device {known.device} has no certificate of the authority that stays: "
                f"make one first, with cutlayer keys renew {known.device}"
            )
    with writing(folder):
        # A list that the other authority signed would be believed no more.
        write_atomically(folder / REVOKED, making.make_revocations(authority, revocations(folder)))
        write_authorities(folder, [authority.certificate])
        for path in (folder / DEVICES).glob(f"*/{DEVICE}.crt"):
            if load_certificate(path).issuer == stays:
                write_authorities(path.parent, [authority.certificate])
    return sum(known.issuer != stays for known in valid)
