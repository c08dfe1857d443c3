"""API keys and the tokens they sign, checked as the venue checks them (ES256 and EdDSA)."""

import json
import secrets
import time
from typing import Annotated

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

TOKEN_LIFE_S = 120
ISSUER = "cdp"
_ALGORITHMS = ("ES256", "EdDSA")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the venue knows of a key."""

    name: Annotated[str, msgspec.Meta(min_length=1, description="the token's kid and sub")]
    public_pem: str
    owner: Annotated[str, msgspec.Meta(min_length=1, description="whose account it opens")]
    can_view: bool = True
    can_trade: bool = True


class Unauthorized(Exception):
    """A token that proves nothing; its text says why."""


class Keyring:
    """The keys that the venue accepts."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = {key.name: key for key in keys}

    def check(self, token: str, uris: tuple[str, ...] = ()) -> ApiKey:
        """Return the key that signed a token; Unauthorized unless it is valid now.

        For REST it must be for one of `uris`, "METHOD host/path" without the query.
        """
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(str(header.get("kid")))
            if key is None:
                raise Unauthorized("the key is not known")
            claims = jwt.decode(
                token,
                key.public_pem,
                algorithms=list(_ALGORITHMS),
                issuer=ISSUER,
                options={"require": ["exp", "nbf", "iss", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as e:
            raise Unauthorized(str(e)) from None
        if not header.get("nonce"):
            raise Unauthorized("the header has no nonce")
        if claims["sub"] != key.name:
            raise Unauthorized("sub is not the name of the key")
        if claims["exp"] - claims["nbf"] > TOKEN_LIFE_S:
            raise Unauthorized(f"a token lives {TOKEN_LIFE_S} s at most")
        if uris and claims.get("uri") not in uris:
            raise Unauthorized("uri is not that of the request")
        return key


def new_key(name: str, owner: str) -> tuple[ApiKey, str]:
    """Return a new ES256 key and its private half as PEM."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return ApiKey(name=name, public_pem=public.decode(), owner=owner), pem.decode()


def key_file(name: str, private_pem: str) -> str:
    """Return a key as the file that the venue gives its users."""
    return json.dumps({"name": name, "privateKey": private_pem}, indent=2) + "\n"


def sign(name: str, private_pem: str, uri: str | None = None, algorithm: str = "ES256") -> str:
    """Return a fresh token, for one REST request or, without `uri`, for the websocket."""
    now = int(time.time())
    claims = {"sub": name, "iss": ISSUER, "nbf": now, "exp": now + TOKEN_LIFE_S}
    headers = {"kid": name, "nonce": secrets.token_hex()}
    return jwt.encode(claims | ({"uri": uri} if uri else {}), private_pem, algorithm, headers)
