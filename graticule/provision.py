"""Making a store ready for a cluster: buckets, MinIO's users and policies, the first tokens, the shipped models.

Everything may be done again at any time: what is there stays, passwords and policies become those of now.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from minio.credentials.providers import StaticProvider
from minio.error import MinioException
from minio.minioadmin import MinioAdmin

from graticule.errors import BadInput, StoreUnavailable
from graticule.registry import publish_shipped_models
from graticule.rights import Role, s3_policy, s3_roles
from graticule.settings import Settings
from graticule.store import Store
from graticule.tokens import Scope, TokenStore

SECRET_FILE = "{role}_s3_secret_key"  # noqa: S105 (a name)
"""Name of the file that holds the secret key of a role, as `deploy/setup` writes it."""
TOKENS = {"admin": Scope.ADMIN, "monitor": Scope.READ}
"""Tokens that `deploy/setup` draws, in files `<name>_token`: for the administrator's browser, for Prometheus."""


def provision(
    settings: Settings, *, secrets: Path | None = None, minio: bool = False, models: bool = True
) -> list[str]:
    """Make buckets, users, policies and tokens, and publish the shipped models; what was done, a sentence each.

    `secrets`: folder with the files of `deploy/setup`. `minio`: the store is MinIO, and its users are made of them.
    Raises BadInput when a file is missing, StoreUnavailable.
    """
    done = []
    Store(settings).create_buckets()
    done.append("the buckets are there")
    if minio:
        roles = make_minio_users(settings, secrets or Path())
        done.append(f"MinIO has the users {', '.join(roles)}")
    if secrets is not None:
        done += adopt_tokens(settings, secrets)
    if models:
        done += [f"model {manifest.reference} is published" for manifest in publish_shipped_models(settings)]
    return done


def make_minio_users(settings: Settings, folder: Path) -> list[Role]:
    """Make a user with a policy for every role but the administrator, as whom this process speaks to MinIO."""
    secrets = {role: _secret(folder, role) for role in s3_roles() if role is not Role.ADMIN}
    address = urlsplit(settings.s3_url)
    admin = MinioAdmin(
        endpoint=address.netloc,
        credentials=StaticProvider(settings.s3_access_key, settings.s3_secret_key.get_secret_value()),
        region=settings.s3_region,
        secure=address.scheme == "https",
    )
    try:
        for role, secret in secrets.items():
            policy = f"graticule-{role.value}"
            admin.policy_add(policy, policy=s3_policy(role, settings))
            admin.user_add(role.value, secret)
            admin.policy_set(policy, user=role.value)
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise StoreUnavailable(
            f"MinIO at {settings.s3_url} did not make its users: {error}.",
            data="The buckets are as they were.",
            advice="Is it MinIO, and is this the key of its administrator? Run the same command again.",
        ) from error
    return list(secrets)


def adopt_tokens(settings: Settings, folder: Path) -> list[str]:
    """Make the tokens that lie in a folder good; a sentence for each. One that was revoked is good again."""
    tokens = TokenStore(Store(settings))
    for name, scope in TOKENS.items():
        tokens.adopt(name, frozenset({scope}), _read(folder / f"{name}_token"))
    return [f"the token in {name}_token is good for {scope.value}" for name, scope in TOKENS.items()]


def _secret(folder: Path, role: Role) -> str:
    return _read(folder / SECRET_FILE.format(role=role.value))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror or error}).",
            data="Nothing was changed.",
            advice="deploy/setup makes it.",
        ) from error
