"""`cutlayer keys`: the certificates of a fleet, from the command line."""

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cutlayer.commands.console import console, say

app = typer.Typer(
    no_args_is_help=True,
    help="Make the certificates of a fleet: init, then server, then one for each device.",
)

Folder = Annotated[Path, typer.Option("--keys", help="Folder of the fleet's keys.")]
Days = Annotated[int, typer.Option(min=1, max=36500, help="How long it is valid.")]


@app.command()
def init(keys: Folder = Path("keys"), days: Days = 3650) -> None:
    """Make the authority that signs every certificate of the fleet."""
    _folder().init(keys, days)
    say(f"authority {keys / 'authority.crt'}; keep {keys / 'authority.key'} to yourself")


@app.command()
def server(
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses devices will join.")],
    keys: Folder = Path("keys"),
    days: Days = 730,
) -> None:
    """Make the edge server's certificate."""
    say(f"server {_folder().add_server(keys, hosts, days)} for {', '.join(hosts)}")


@app.command()
def device(
    names: Annotated[list[str], typer.Argument(help="Names of devices.")],
    keys: Folder = Path("keys"),
    days: Days = 730,
) -> None:
    """Make a certificate for each of some devices; copy each folder to its device."""
    for name in names:
        say(f"device {name}: copy {_folder().add_device(keys, name, days)} to it")


@app.command()
def renew(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of devices; without any, the server.")
    ] = None,
    keys: Folder = Path("keys"),
    days: Days = 730,
) -> None:
    """Make a certificate anew before it ends; whoever runs takes it without a stop."""
    if not names:
        say(f"server {_folder().renew_server(keys, days)}: a running server takes it by itself")
    for name in names or []:
        bundle = _folder().renew_device(keys, name, days)
        say(f"device {name}: copy {bundle} over its own; join takes it by itself")


@app.command()
def revoke(
    names: Annotated[list[str], typer.Argument(help="Names of devices.")],
    keys: Folder = Path("keys"),
) -> None:
    """Shut some devices out for good, at once where they are connected."""
    for name in names:
        say(f"device {name}: {_folder().revoke(keys, name)} certificates revoked")


@app.command()
def rotate(keys: Folder = Path("keys"), days: Days = 3650) -> None:
    """Make a new authority before the fleet's ends, while everything runs; both are trusted."""
    from cutlayer.network.transport.rotation import rotate  # slow to import

    for bundle in rotate(keys, days):
        say(f"device {bundle.name}: copy {bundle} over its own; join takes it by itself")
    say(f"authority {keys / 'authority.crt'}: the new one, and the earlier one; keep authority.key")
    say("next     once every device has its folder: cutlayer keys renew, then cutlayer keys retire")


@app.command()
def retire(keys: Folder = Path("keys")) -> None:
    """Trust the earlier authority no more: shuts out who has no certificate of the new one."""
    from cutlayer.network.transport.rotation import retire  # slow to import

    say(f"authority {keys / 'authority.crt'}: the new one alone; {retire(keys)} certificates end")


@app.command()
def show(keys: Folder = Path("keys")) -> None:
    """List the authorities of the fleet and the certificates that they signed."""
    table = Table.grid(padding=(0, 2))
    for until, state in _folder().list_authorities(keys):
        table.add_row("[bold](authority)[/]", f"until {until:%Y-%m-%d}", state)
    for known in _folder().list_issued(keys):
        state = "valid" if known.valid else "expired"
        if known.revoked:
            state = f"revoked {known.revoked:%Y-%m-%d}"
        elif known.trusted is None:
            state = "of an authority that was retired"
        elif known.valid and known.trusted:
            state = "valid, of the earlier authority"
        name = escape(known.device) if known.device else "(server)"
        table.add_row(f"[bold]{name}[/]", f"until {known.expires:%Y-%m-%d}", state)
    console.print(table)


def _folder() -> ModuleType:
    from cutlayer.network.transport import keys  # slow to import

    return keys
