"""Keys of the local cloud's service account, and the tokens that they are exchanged for: what a manager uses that runs
elsewhere than on an instance (GOOGLE_APPLICATION_CREDENTIALS). Mounted by `server`.

Source: RFC 7523 (a JWT as an authorization grant), as Google's "OAuth 2.0 for server to server" uses it.
"""

from __future__ import annotations

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import exceptions, jwt

from weft.lab.compute.access import Access
from weft.lab.compute.engine import Compute
from weft.lab.compute.history import Call
from weft.lab.compute.resources import Json, number_of

AUDIENCE = "https://oauth2.googleapis.com/token"
"""What Google's own libraries write, wherever they were told to send it."""
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Keys:
    """One key, made when it is asked for first."""

    def __init__(self, compute: Compute, access: Access) -> None:
        self.compute, self.access = compute, access
        self._key: rsa.RSAPrivateKey | None = None

    def file(self, url: str) -> Json:
        """What a key file of the service account holds; `url`: where the local cloud listens, http://127.0.0.1:40001."""
        if self._key is None:
            self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        table = self.compute.table
        return {
            "type": "service_account",
            "project_id": table.project,
            "private_key_id": number_of(table.project, "key"),
            "private_key": private.decode(),
            "client_email": table.account.email,
            "client_id": number_of(table.account.email),
            "token_uri": f"{url}/token",
        }

    async def handle(self, request: web.Request) -> web.Response:
        """POST /token: a token for a JWT that the key signed."""
        begun = self.compute.now
        form = await request.post()
        status, answer = self._exchange(
            str(form.get("grant_type", "")), str(form.get("assertion", "")), str(request.url)
        )
        self.compute.history.calls.append(
            Call(
                at=begun,
                took=self.compute.now - begun,
                method="oauth2.token",
                http=request.method,
                path=request.path,
                query={},
                status=status,
            )
        )
        return web.json_response(answer, status=status)

    def _exchange(self, grant: str, assertion: str, audience: str) -> tuple[int, Json]:
        if fault := self.compute.faults.take("oauth2.token"):
            return fault.status, {"error": fault.reason or "internal_failure", "error_description": fault.message}
        if grant != GRANT:
            return 400, {"error": "unsupported_grant_type", "error_description": f"Invalid grant_type: {grant}"}
        account = self.compute.table.account
        try:
            claims = jwt.decode(assertion, certs=self._public(), audience=[audience, AUDIENCE])  # type: ignore[no-untyped-call]
        except (ValueError, exceptions.GoogleAuthError) as error:
            return 400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {error}"}
        if claims.get("iss") != account.email:
            return 400, {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
        scopes = tuple(str(claims.get("scope", "")).split())
        if not scopes:
            return 400, {"error": "invalid_scope", "error_description": "Empty or missing scope not allowed."}
        token = self.access.token(scopes)
        left = max(0, int(token.ends - self.compute.now))
        return 200, {"access_token": token.text, "expires_in": left, "token_type": "Bearer"}

    def _public(self) -> bytes:
        if self._key is None:
            raise ValueError("no key was given out")
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
