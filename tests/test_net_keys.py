"""The folder of a fleet's keys, from Python and from the command line."""

import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cutlayer.cli import main
from cutlayer.errors import KeysError, NetworkError, RefusedError
from cutlayer.network.transport import certificates, keys
from cutlayer.network.transport.identity import (
    Peer,
    Revocations,
    load_device_identity,
    load_server_identity,
)


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
    server, one, two = (line.split() for line in capsys.readouterr().out.splitlines())
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
    key = keys.load_pair(bundle, "device").key
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
    revocations = Revocations(
        folder / "revoked.crl", keys.load_certificate(folder / "authority.crt")
    )
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
    revocations = Revocations(path, keys.load_certificate(folder / "authority.crt"))
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
    renewed = keys.load_certificate(folder / "server.crt")
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
    ):
        with pytest.raises(KeysError, match=r"holds no authority\.key, .*: run this where that"):
            work()
