"""`graticule tokens`: make, list and revoke tokens for the gateway."""

from __future__ import annotations

import re
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from graticule.errors import BadInput
from graticule.jobs import utc_now
from graticule.settings import Settings
from graticule.store import Store
from graticule.tokens import Scope, Token, TokenStore

console = Console(soft_wrap=True, markup=False, highlight=False)

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def create(settings: Settings, name: str, scopes: list[str], expires: str) -> int:
    """Make a token and print it, once."""
    token, text = TokenStore(Store(settings)).create(name, _scopes(scopes), lifetime(expires))
    until = f"until {token.expires_at:%Y-%m-%d %H:%M} UTC" if token.expires_at else "for ever"
    Console(stderr=True, markup=False, highlight=False).print(
        f"Token {token.id} for {name!r} ({_listed(token)}), good {until}. It is shown only now:"
    )
    console.print(text)
    return 0


def show(settings: Settings) -> int:
    """List the tokens; their secrets are not known."""
    table = Table("Id", "Name", "Scopes", "Made", "Good until")
    for token in TokenStore(Store(settings)).list():
        until = f"{token.expires_at:%Y-%m-%d %H:%M}" if token.expires_at else "for ever"
        expired = " (over)" if token.is_expired(utc_now()) else ""
        table.add_row(token.id, token.name, _listed(token), f"{token.created_at:%Y-%m-%d %H:%M}", until + expired)
    console.print(table)
    return 0


def revoke(settings: Settings, identity: str) -> int:
    """Make a token worthless; the gateway notices within ten seconds."""
    token = TokenStore(Store(settings)).revoke(identity)
    console.print(f"Token {token.id} for {token.name!r} is revoked.")
    return 0


def lifetime(text: str) -> timedelta | None:
    """`12h`, `90d`, `4w`, or `never`. Raises BadInput."""
    if text == "never":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text)
    if match is None:
        raise BadInput(f"Expected a time such as 12h, 90d, 4w, or never; found {text!r}.", data="No token was made.")
    return int(match[1]) * _UNITS[match[2]]


def _scopes(names: list[str]) -> frozenset[Scope]:
    known = [scope.value for scope in Scope]
    if unknown := [name for name in names if name not in known]:
        raise BadInput(f"Unknown scope(s) {', '.join(unknown)}; known: {', '.join(known)}.", data="No token was made.")
    return frozenset(map(Scope, names))


def _listed(token: Token) -> str:
    return ", ".join(sorted(scope.value for scope in token.scopes))
