"""What `graticule rights` does."""

from __future__ import annotations

import json

import typer

from graticule.errors import BadInput
from graticule.rights import Role, redis_acl, redis_roles, rights_table, s3_policy, s3_roles, seaweedfs_identities
from graticule.settings import Settings


def show(settings: Settings, form: str, role: str) -> int:
    """Print the rights of the roles in one of the forms; the exit code."""
    if form == "table":
        typer.echo(rights_table())
    elif form == "redis":
        typer.echo(redis_acl(settings, {role: f"#@{role}.sha256@" for role in redis_roles()}), nl=False)
    elif form == "seaweedfs":
        typer.echo(
            json.dumps(seaweedfs_identities(settings, {role: f"@{role}.secret@" for role in s3_roles()}), indent=1)
        )
    elif form == "s3-policy":
        typer.echo(json.dumps(s3_policy(_s3_role(role), settings), indent=1))
    else:
        raise BadInput(f"Expected table, redis, seaweedfs or s3-policy, found {form!r}.")
    return 0


def _s3_role(name: str) -> Role:
    known = {role.value: role for role in s3_roles()}
    if name not in known:
        raise BadInput(f"Expected a role with a key of the object store ({', '.join(known)}), found {name!r}.")
    return known[name]
