"""The folder of a fleet's keys, from Python and from the command line."""

import stat
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cutlayer.cli import main
from cutlayer.errors import KeysError, NetworkError, RefusedError
from cutlayer.network.transport import certificates, key_files, keys, rotation
from cutlayer.network.transport.identity import load_device_identity, load_server_identity
from cutlayer.network.transport.peers import Peer, Revocations


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cutlayer", "keys", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys.init(tmp_path / "keys")
    return tmp_path / "keys"


def test_the_commands_make_a_fleet_that_both_sides_can_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "init") == 0
    assert run(monkeypatch, "server", "edge.local", "192.168.1.10", "::1") == 0
    assert run(monkeypatch, "device", "cam-1", "cam-2") == 0
    assert run(monkeypatch, "revoke", "cam-2") == 0
    assert load_server_identity(Path("keys")).name is None
    assert load_device_identity(Path("keys/devices/cam-1")).name == "cam-1"
    capsys.readouterr()
    assert run(monkeypatch, "show") == 0
    authority, server, one, two = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (authority[0], authority[-1]) == ("(authority)", "valid")
    assert (server[0], server[-1]) == ("(server)", "valid")
    assert (one[0], one[-1]) == ("cam-1", "valid")
    assert (two[0], two[-2]) == ("cam-2", "revoked")


def test_private_keys_are_their_owners_only_and_are_elliptic(folder: Path) -> None:
    keys.add_server(folder, ["localhost"])
    bundle = keys.add_device(folder, "cam-1")
    private = sorted(folder.rglob("*.key"))
    assert len(private) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert not any(path.name.startswith(".") for path in folder.rglob("*"))
    key = key_files.load_pair(bundle, "device").key
    assert isinstance(key.curve, ec.SECP256R1)
    # What a device gets holds nothing that makes certificates.
    assert sorted(p.name for p in bundle.iterdir()) == [
        "authority.crt",
        "device.crt",
        "device.key",
    ]


def test_a_machine_whose_clock_is_a_day_off_takes_certificates_that_were_just_made(
    folder: Path,
) -> None:
    keys.add_server(folder, ["localhost"])
    keys.add_device(folder, "cam-1")
    made = sorted(folder.rglob("*.crt"))
    assert len(made) >= 3
    for path in made:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        for days in (-1, 1):
            then = datetime.now(UTC) + timedelta(days=days)
            assert certificate.not_valid_before_utc < then < certificate.not_valid_after_utc


def test_a_revoked_name_can_be_given_again_and_the_old_certificate_stays_out(folder: Path) -> None:
    keys.add_device(folder, "cam-1")
    (old,) = keys.list_issued(folder)
    assert keys.revoke(folder, "cam-1") == 1
    assert keys.revoke(folder, "cam-1") == 0
    keys.add_device(folder, "cam-1")
    states = {known.serial: known.valid for known in keys.list_issued(folder)}
    assert states.pop(old.serial) is False
    assert list(states.values()) == [True]


def test_revocations_are_seen_while_they_are_in_use(folder: Path) -> None:
    keys.add_device(folder, "cam-1")
    (known,) = keys.list_issued(folder)
    peer = Peer("cam-1", known.serial, known.expires)
    revocations = Revocations(folder)
    revocations.check(peer)
    with pytest.raises(NetworkError, match=r"expired .*: renew it with cutlayer keys renew cam-1"):
        revocations.check(Peer("cam-1", known.serial, datetime.now(UTC) - timedelta(seconds=1)))
    keys.revoke(folder, "cam-1")
    with pytest.raises(RefusedError, match="cam-1 was revoked"):
        revocations.check(peer)


@pytest.mark.parametrize("forge", ["remove", "damage", "other authority"])
def test_a_revocation_list_that_cannot_be_trusted_lets_nobody_in(
    folder: Path, tmp_path: Path, forge: str
) -> None:
    path = folder / "revoked.crl"
    revocations = Revocations(folder)
    if forge == "remove":
        path.unlink()
    elif forge == "damage":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_bytes(certificates.make_revocations(certificates.make_authority(), {}))
    with pytest.raises(KeysError, match="revo"):
        revocations.check(Peer("cam-1", 1, datetime.now(UTC) + timedelta(days=1)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["init"], "holds an authority already"),
        (["server", "other.local"], "remove it and server.key"),
        (["server", "edge local", "--keys", "bare"], "neither a host name nor an IP address"),
        (["device", "cam-1"], "revoke it first"),
        (["device", "../cam"], "device name: '../cam'"),
        (["device", "a" * 64], "1 to 63 letters"),
        (["device", "cam 3"], "device name"),
        (["device", "cam-3", "--keys", "nowhere"], "nowhere holds no authority"),
        (["revoke", "cam-9"], "no certificate was made for device 'cam-9'"),
        (["show", "--keys", "nowhere"], "cannot read nowhere/authority.crt"),
        (["init", "--keys", "file/keys"], "cannot write in file/keys"),
    ],
)
def test_an_error_is_one_sentence_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    keys.init(Path("keys"))
    keys.add_server(Path("keys"), ["localhost"])
    keys.add_device(Path("keys"), "cam-1")
    keys.init(Path("bare"))
    Path("file").write_text("in the way")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_cannot_be_an_identity_says_why(folder: Path, tmp_path: Path) -> None:
    bundle = keys.add_device(folder, "cam-1")
    with pytest.raises(KeysError, match=r"holds no server\.crt"):
        load_server_identity(folder)
    with pytest.raises(KeysError, match="it is a device's"):
        load_server_identity(bundle)
    keys.add_server(folder, ["localhost"])
    with pytest.raises(KeysError, match="it is a server's"):
        load_device_identity(folder)
    keys.init(tmp_path / "other")
    other = keys.add_device(tmp_path / "other", "cam-1")
    certificate = (bundle / "device.crt").read_bytes()
    (bundle / "device.crt").write_bytes((other / "device.crt").read_bytes())
    with pytest.raises(KeysError, match="does not belong to"):
        load_device_identity(bundle)
    (bundle / "device.key").write_bytes((other / "device.key").read_bytes())
    with pytest.raises(KeysError, match="not signed by the authority"):
        load_device_identity(bundle)
    (bundle / "device.crt").write_bytes(certificate[:100])
    with pytest.raises(KeysError, match="is no certificate"):
        load_device_identity(bundle)


def test_an_expired_certificate_is_told_before_it_is_used(folder: Path) -> None:
    bundle = keys.add_device(folder, "cam-1", days=-1)
    with pytest.raises(KeysError, match=r"device\.crt expired on"):
        load_device_identity(bundle)
    # Nothing need be revoked to replace it.
    assert load_device_identity(keys.add_device(folder, "cam-1")).name == "cam-1"


def test_renewing_keeps_names_and_the_old_certificate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ["edge.local", "192.168.1.10"]
    keys.add_server(folder, hosts)
    bundle = keys.add_device(folder, "cam-1")
    server = load_server_identity(folder)
    with pytest.raises(KeysError, match="extend it with cutlayer keys renew cam-1"):
        keys.add_device(folder, "cam-1")
    monkeypatch.chdir(folder.parent)
    assert run(monkeypatch, "renew", "--days", "900") == 0
    assert run(monkeypatch, "renew", "cam-1") == 0
    renewed = key_files.load_certificate(folder / "server.crt")
    assert certificates.server_hosts(renewed) == hosts
    assert renewed.not_valid_after_utc > server.expires
    assert load_device_identity(bundle).name == "cam-1"
    assert [known.valid for known in keys.list_issued(folder)] == [True] * 4
    assert keys.revoke(folder, "cam-1") == 2
    for name in ("cam-1", "cam-2"):
        with pytest.raises(KeysError, match=f"make one with cutlayer keys device {name}"):
            keys.renew_device(folder, name)


def test_an_identity_follows_its_files(folder: Path) -> None:
    keys.add_server(folder, ["localhost"])
    bundle = keys.add_device(folder, "cam-1")
    told: list[str] = []
    first = load_device_identity(bundle, told.append)
    assert first.current is first
    keys.renew_device(folder, "cam-1")
    renewed = first.current
    assert renewed.certificate == (bundle / "device.crt").read_bytes() != first.certificate
    assert first.current is renewed
    other = keys.add_device(folder, "cam-2")
    for name in ("device.crt", "device.key"):
        (bundle / name).write_bytes((other / name).read_bytes())
        assert first.current is renewed
    (bundle / "device.key").unlink()
    assert first.current is renewed
    taken, torn, named, gone = told
    assert "took the new certificate" in taken
    assert f"{renewed.expires:%Y-%m-%d}" in taken
    assert "does not belong to device.crt" in torn
    assert "of before is used" in torn
    assert "names device cam-2 now" in named
    assert "cannot read" in gone


def test_where_the_key_of_the_authority_is_kept_elsewhere_it_is_asked_for_there(
    folder: Path,
) -> None:
    (folder / "authority.key").unlink()
    for work in (
        lambda: keys.add_server(folder, ["localhost"]),
        lambda: keys.add_device(folder, "cam-1"),
        lambda: keys.revoke(folder, "cam-1"),
        lambda: keys.renew_server(folder),
        lambda: keys.renew_device(folder, "cam-1"),
        lambda: rotation.rotate(folder),
        lambda: rotation.retire(folder),
    ):
        with pytest.raises(KeysError, match=r"holds no authority\.key, .*: run this where that"):
            work()


def states(folder: Path) -> dict[tuple[str | None, int | None], int]:
    """How many valid certificates each device (None: the server) has, by the authority's place."""
    found = Counter((k.device, k.trusted) for k in keys.list_issued(folder) if k.valid)
    return dict(found)


def test_an_authority_is_replaced_step_by_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = ["edge.local", "192.168.1.10"]
    keys.add_server(folder, hosts)
    for name in ("cam-1", "cam-2", "cam-3"):
        keys.add_device(folder, name)
    keys.revoke(folder, "cam-3")
    (old,) = key_files.load_authorities(folder)
    monkeypatch.chdir(folder.parent)
    assert run(monkeypatch, "rotate", "--days", "400") == 0
    told = capsys.readouterr().out
    assert "keys/devices/cam-1" in told
    assert "cam-3" not in told
    new, *rest = key_files.load_authorities(folder)
    assert rest == [old]
    # The server goes on with a certificate that devices trust before they have their new folders.
    assert states(folder) == {
        (None, 1): 1, ("cam-1", 0): 1, ("cam-1", 1): 1, ("cam-2", 0): 1, ("cam-2", 1): 1
    }  # fmt: skip
    assert load_server_identity(folder)
    assert load_device_identity(folder / "devices" / "cam-1").name == "cam-1"
    assert run(monkeypatch, "show") == 0
    shown = capsys.readouterr().out
    assert shown.count("(authority)") == 2
    assert "valid, of the earlier authority" in shown
    assert run(monkeypatch, "rotate") == 2
    assert "end the change that is under way" in capsys.readouterr().err
    assert run(monkeypatch, "retire") == 2
    assert "make it anew first, with cutlayer keys renew" in capsys.readouterr().err
    assert run(monkeypatch, "renew") == 0
    assert run(monkeypatch, "retire") == 0
    assert "3 certificates end" in capsys.readouterr().out
    assert key_files.load_authorities(folder) == [new]
    assert key_files.load_authorities(folder / "devices" / "cam-1") == [new]
    assert states(folder) == {(None, 0): 1, ("cam-1", 0): 1, ("cam-2", 0): 1}
    assert certificates.server_hosts(key_files.load_certificate(folder / "server.crt")) == hosts
    assert Revocations(folder).names() == {"cam-3"}
    assert run(monkeypatch, "retire") == 2
    assert "none besides that could be retired" in capsys.readouterr().err
    keys.add_device(folder, "cam-4")
    assert load_device_identity(folder / "devices" / "cam-4").name == "cam-4"


def test_an_authority_that_has_expired_is_replaced_too(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.init(folder, days=0)
    (folder / "issued").mkdir()
    old = certificates.make_device(key_files.load_pair(folder, "authority"), "cam-1")
    key_files.record(folder, old)
    with pytest.raises(KeysError, match=r"expired on .*: replace it with cutlayer keys rotate"):
        keys.add_server(folder, ["localhost"])
    (bundle,) = rotation.rotate(folder)
    assert load_device_identity(bundle).name == "cam-1"
    keys.add_server(folder, ["localhost"])
    assert rotation.retire(folder) == 0
    assert load_server_identity(folder)


@pytest.mark.parametrize("written", range(1, 5))
def test_a_rotation_that_is_cut_off_anywhere_can_be_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """After so many files: the list of authorities, the key, the list of revoked ones, a copy."""
    keys.add_server(folder, ["localhost"])
    keys.add_device(folder, "cam-1")
    keys.add_device(folder, "cam-2")
    keys.revoke(folder, "cam-2")
    write = key_files.write_atomically
    left = written

    def fails(path: Path, content: bytes, mode: int = 0o666) -> None:
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        left -= 1
        write(path, content, mode)

    with monkeypatch.context() as full:
        for module in (key_files, rotation):
            full.setattr(module, "write_atomically", fails)
        with pytest.raises(KeysError, match="No space left"):
            rotation.rotate(folder)
    assert load_server_identity(folder)
    assert load_device_identity(folder / "devices" / "cam-1")
    assert Revocations(folder).names() == {"cam-2"}
    keys.renew_device(folder, "cam-1")
    keys.renew_server(folder)
    rotation.retire(folder)
    assert load_server_identity(folder)
    assert load_device_identity(folder / "devices" / "cam-1")
    assert Revocations(folder).names() == {"cam-2"}
    assert states(folder).keys() == {(None, 0), ("cam-1", 0)}


def test_no_device_is_shut_out_because_it_was_forgotten(folder: Path) -> None:
    keys.add_device(folder, "cam-1")
    keys.add_device(folder, "cam-2")
    rotation.rotate(folder)
    new = next(k for k in keys.list_issued(folder) if k.device == "cam-2" and k.trusted == 0)
    (folder / "issued" / f"{new.serial:x}.crt").unlink()
    with pytest.raises(KeysError, match="make one first, with cutlayer keys renew cam-2"):
        rotation.retire(folder)


def test_an_identity_says_that_it_took_new_authorities(folder: Path) -> None:
    keys.add_server(folder, ["localhost"])
    told: list[str] = []
    first = load_server_identity(folder, told.append)
    rotation.rotate(folder)
    assert first.current.authority == (folder / "authority.crt").read_bytes() != first.authority
    assert told == [f"keys: took the new {folder / 'authority.crt'}"]
