"""Mutual TLS 1.3: who is let in and who is not."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import grpc
import pytest

from cutlayer.errors import NetworkError, RefusedError
from cutlayer.network.transport import certificates, key_files, keys, rotation
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.identity import Identity, load_device_identity, load_server_identity
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.messages import RoundBegin
from cutlayer.network.transport.peers import peer_of
from net_helpers import Fleet, Site, hello, play, settled, site


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "keys", "cam-1", "cam-2")


def identity_of(authority: Path, pair: certificates.Pair) -> Identity:
    return Identity(pair.key_pem, pair.certificate_pem, (authority / "authority.crt").read_bytes())


def test_devices_are_who_their_certificates_say(fleet: Fleet) -> None:
    async def scene() -> None:
        async with site(identity=fleet.server) as place:
            device, server = await place.join_with(fleet.device("cam-1"))
            assert server.name == device.name == "cam-1"
            _, other = await place.join_with(fleet.device("cam-2"), hello("cam-2"))
            assert other.name == "cam-2"
            await device.send(Lane.UP, b"x" * 4096)
            assert await server.receive(Lane.UP) == b"x" * 4096

    play(scene())


def refusal(fleet: Fleet, identity: Identity | None, **fields: str) -> NetworkError:
    """What a device that should not get in is told, while another goes on unharmed."""

    async def scene() -> NetworkError:
        async with site(Limits(hello_s=5.0), fleet.server) as place:
            device, server = await place.join_with(fleet.device("cam-2"))
            with pytest.raises(NetworkError) as refused:
                await connect(place.address, hello(**fields), identity, place.limits)
            assert list(place.listener.connections) == ["cam-2"]
            await device.send(Lane.UP, b"unharmed")
            assert await server.receive(Lane.UP) == b"unharmed"
            return refused.value

    return play(scene())


def test_no_certificate_is_refused(fleet: Fleet) -> None:
    refusal(fleet, None, device="cam-1")  # not even TLS
    context = ssl.create_default_context(cafile=str(fleet.folder / "authority.crt"))
    context.set_alpn_protocols(["h2"])

    async def scene() -> None:
        async with site(identity=fleet.server) as place:
            port = place.listener.port
            assert await asyncio.to_thread(first_bytes, port, context) == b""
            bundle = fleet.folder / "devices" / "cam-1"
            context.load_cert_chain(bundle / "device.crt", bundle / "device.key")
            assert await asyncio.to_thread(first_bytes, port, context) != b""

    play(scene())


def first_bytes(port: int, context: ssl.SSLContext) -> bytes:
    """What a server says first to a TLS client; none where it hangs up, as on a bad certificate."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            return tls.recv(16)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_another_fleets_certificate_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    stranger = Fleet(tmp_path / "strangers", "cam-1").device("cam-1")
    # It trusts our server, but was signed elsewhere.
    ours = (fleet.folder / "authority.crt").read_bytes()
    assert "keys of one fleet" in str(refusal(fleet, replace(stranger, authority=ours)))


def test_a_server_of_another_fleet_is_not_joined(fleet: Fleet, tmp_path: Path) -> None:
    stranger = Fleet(tmp_path / "strangers", "cam-1").device("cam-1")
    assert "is not valid here" in str(refusal(fleet, stranger))


def test_an_expired_certificate_is_refused(fleet: Fleet) -> None:
    pair = certificates.make_device(
        key_files.load_pair(fleet.folder, "authority"), "cam-1", days=-1
    )
    refusal(fleet, identity_of(fleet.folder, pair))


def test_a_revoked_certificate_is_refused_for_good(fleet: Fleet) -> None:
    identity = fleet.device("cam-1")
    keys.revoke(fleet.folder, "cam-1")
    refused = refusal(fleet, identity)
    assert isinstance(refused, RefusedError)
    assert "cam-1 was revoked" in str(refused)


def test_certificates_are_renewed_without_a_stop(fleet: Fleet) -> None:
    """Connections that are open go on; the next ones use the new certificates of both sides."""

    async def scene() -> None:
        device = fleet.device("cam-2")
        async with site(Limits(heartbeat_s=0.05), fleet.server) as place:
            mine, server = await place.join_with(fleet.device("cam-1"))
            shown = await asyncio.to_thread(certificate_of, place.listener.port)
            assert shown == (fleet.folder / "server.crt").read_text()
            keys.renew_server(fleet.folder)
            keys.renew_device(fleet.folder, "cam-2")
            shown = await asyncio.to_thread(certificate_of, place.listener.port)
            assert shown == (fleet.folder / "server.crt").read_text()
            await mine.send(Lane.UP, b"goes on")
            assert await server.receive(Lane.UP) == b"goes on"
            _, renewed = await place.join_with(device)
            assert renewed.name == "cam-2"
            (_, peer) = list(place.listener._sessions.values())[-1]
            assert peer is not None
            bundle = fleet.folder / "devices" / "cam-2"
            new = key_files.load_certificate(bundle / "device.crt")
            assert peer.serial == new.serial_number

    play(scene())


def certificate_of(port: int) -> str:
    """The certificate (PEM) that a server shows to whoever connects."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


def test_an_authority_is_replaced_without_a_stop(fleet: Fleet) -> None:
    """Old and new certificates are served side by side until the earlier authority is retired."""

    async def scene() -> None:
        told: list[str] = []
        server = load_server_identity(fleet.folder, told.append)
        bundle, early = fleet.folder / "devices" / "cam-1", fleet.folder.parent / "cam-1"
        shutil.copytree(bundle, early)  # the device's own folder, which is not the fleet's
        mine, late = load_device_identity(early), fleet.device("cam-2")
        async with site(Limits(heartbeat_s=0.05), server) as place:
            device, at_server = await place.join_with(mine)
            rotation.rotate(fleet.folder)
            await device.send(Lane.UP, b"goes on")
            assert await at_server.receive(Lane.UP) == b"goes on"
            # One device has its new folder, the other not yet: both are served.
            again, _ = await place.join_with(late)
            device, _ = await place.join_with(mine)
            assert sum("device cam-1 uses a certificate of the earlier" in t for t in told) == 1
            assert not any("device cam-2" in t for t in told)
            # Devices that know both authorities are shown a certificate of the new one.
            shutil.copytree(bundle, early, dirs_exist_ok=True)
            keys.renew_server(fleet.folder)
            device, _ = await place.join_with(mine)
            assert any("device cam-1 uses a certificate of the new authority" in t for t in told)
            rotation.retire(fleet.folder)
            for end in (device, again):
                await end.send(Lane.UP, b"x")
            device, _ = await place.join_with(mine)
            assert device.name == "cam-1"

    play(scene())


def test_a_retired_authority_ends_the_connections_of_its_certificates(fleet: Fleet) -> None:
    async def scene() -> None:
        own = fleet.folder.parent / "cam-1"
        shutil.copytree(fleet.folder / "devices" / "cam-1", own)
        forgotten = load_device_identity(own)
        async with site(Limits(heartbeat_s=0.05), fleet.server) as place:
            device, _ = await place.join_with(forgotten)
            rotation.rotate(fleet.folder)
            keys.renew_server(fleet.folder)
            rotation.retire(fleet.folder)
            assert "was retired: copy its folder of keys" in await device.wait_closed()
            assert not device.final
            with pytest.raises(NetworkError):
                await connect(place.address, hello(), forgotten, place.limits)
            shutil.copytree(fleet.folder / "devices" / "cam-1", own, dirs_exist_ok=True)
            _, again = await place.join_with(forgotten)
            assert again.name == "cam-1"

    play(scene())


class TwoDaysLater(datetime):
    """The clock, two days on."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(days=2)


def test_a_certificate_that_expires_ends_its_connection_until_it_is_renewed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        authority = key_files.load_pair(fleet.folder, "authority")
        bundle = fleet.folder / "devices" / "cam-1"
        soon = certificates.make_device(authority, "cam-1", days=1)
        async with site(Limits(heartbeat_s=0.05), fleet.server) as place:
            (bundle / "device.key").write_bytes(soon.key_pem)
            (bundle / "device.crt").write_bytes(soon.certificate_pem)
            identity = fleet.device("cam-1")
            device, _ = await place.join_with(identity)
            with monkeypatch.context() as later:
                later.setattr("cutlayer.network.transport.peers.datetime", TwoDaysLater)
                assert "renew it with cutlayer keys renew cam-1" in await device.wait_closed()
            assert not device.final
            keys.renew_device(fleet.folder, "cam-1")
            _, again = await place.join_with(identity)
            assert again.name == "cam-1"

    play(scene())


def test_another_devices_name_is_refused(fleet: Fleet) -> None:
    refused = refusal(fleet, fleet.device("cam-1"), device="cam-2")
    assert isinstance(refused, RefusedError)
    assert "names device cam-2, but the certificate names cam-1" in str(refused)


def test_the_servers_certificate_is_no_devices_and_a_devices_no_servers(fleet: Fleet) -> None:
    refusal(fleet, replace(fleet.server, revocations=None))

    async def scene() -> None:
        async with site(identity=replace(fleet.device("cam-1"), name=None)) as place:
            with pytest.raises(NetworkError, match="is not valid here"):
                await connect(place.address, hello(), fleet.device("cam-2"))

    play(scene())


def test_a_server_is_joined_only_by_a_name_in_its_certificate(fleet: Fleet) -> None:
    async def scene() -> None:
        async with site(identity=fleet.server) as place:
            port = place.listener.port
            connection = await connect(f"localhost:{port}", hello(), fleet.device("cam-1"))
            await connection.close("done")
        elsewhere = Fleet(fleet.folder.parent / "elsewhere", "cam-1")
        (elsewhere.folder / "server.crt").unlink()
        keys.add_server(elsewhere.folder, ["edge.local"])
        async with site(identity=elsewhere.server) as place:
            with pytest.raises(NetworkError, match="join by a name it was made for"):
                await connect(place.address, hello(), elsewhere.device("cam-1"))

    play(scene())


@pytest.mark.parametrize("waits", ["device sends", "server sends", "both are silent"])
def test_revoking_ends_a_live_connection_and_no_other(fleet: Fleet, waits: str) -> None:
    async def scene() -> None:
        async with site(Limits(hello_s=1.0, heartbeat_s=0.05), fleet.server) as place:
            device, server = await place.join_with(fleet.device("cam-1"))
            other, server_of_other = await place.join_with(fleet.device("cam-2"))
            reading = asyncio.create_task(server.receive(Lane.UP))
            await asyncio.sleep(0.01)
            keys.revoke(fleet.folder, "cam-1")
            if waits == "device sends":
                await settled(device.send(Lane.UP, b"secret"))
            elif waits == "server sends":
                with pytest.raises(RefusedError, match="cam-1 was revoked"):
                    await server.tell(RoundBegin(0, cut=2, steps=1))
            with pytest.raises(RefusedError, match="cam-1 was revoked"):
                await reading
            assert "cam-1 was revoked" in await device.wait_closed()
            assert device.final
            await other.send(Lane.UP, b"unharmed")
            assert await server_of_other.receive(Lane.UP) == b"unharmed"

    play(scene())


def speak_tls_1_2(folder: Path) -> str:
    """How a server answers a device with a good certificate that speaks TLS 1.2."""
    from net_http2 import PREFACE, post

    def speak(port: int) -> bool:
        context = ssl.create_default_context(cafile=str(folder / "authority.crt"))
        bundle = folder / "devices" / "cam-1"
        context.load_cert_chain(bundle / "device.crt", bundle / "device.key")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
            ):
                tls.sendall(PREFACE + post(b"/cutlayer.Link/control"))
                while tls.recv(1000):
                    if place.listener.events["refused"]:
                        return True
        except OSError:
            return False
        return False

    async def scene() -> str:
        nonlocal place
        async with site(Limits(idle_s=2.0), load_server_identity(folder)) as place:
            spoke = await asyncio.to_thread(speak, place.listener.port)
            return "refused after the handshake" if spoke else "no handshake"

    place: Site
    return play(scene())


@pytest.mark.parametrize(
    ("suites", "answer"),
    [
        (None, "no handshake"),
        # Where gRPC was told to, or another library has set it up first, older TLS ends later.
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "refused after the handshake"),
    ],
)
def test_only_tls_1_3_is_spoken(fleet: Fleet, suites: str | None, answer: str) -> None:
    # gRPC reads its settings once in a process.
    code = (
        "import sys, pathlib, cutlayer.network.transport; "
        "from test_net_identity import speak_tls_1_2; "
        "print(speak_tls_1_2(pathlib.Path(sys.argv[1])))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRPC")}
    environment |= {"GRPC_SSL_CIPHER_SUITES": suites} if suites else {}
    found = subprocess.run(
        [sys.executable, "-c", code, str(fleet.folder)],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.stdout.strip() == answer, found.stderr


def test_a_device_that_agreed_on_older_tls_is_told() -> None:
    with pytest.raises(RefusedError, match=r"TLS 1\.3 is needed, not TLSv1\.2"):
        peer_of({"ssl_tls_version": [b"TLSv1.2"]})
    with pytest.raises(RefusedError, match="not an unknown version"):
        peer_of({})


def test_a_session_cannot_be_joined_by_another_device(fleet: Fleet) -> None:
    """Even one that knows the session's secret name."""

    async def scene() -> None:
        async with site(identity=fleet.server) as place:
            _, server = await place.join_with(fleet.device("cam-1"))
            (session,) = place.listener._sessions
            identity = fleet.device("cam-2")
            credentials = grpc.ssl_channel_credentials(
                identity.authority, identity.key, identity.certificate
            )
            async with grpc.aio.secure_channel(place.address, credentials) as channel:
                call = channel.stream_stream("/cutlayer.Link/up")(
                    metadata=(("cutlayer-session", session),)
                )
                assert await call.code() is grpc.StatusCode.ABORTED
                assert "there is none of that name" in str(await call.details())
            assert not server.over

    play(scene())
