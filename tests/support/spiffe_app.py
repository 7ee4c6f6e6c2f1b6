"""An app that uses the SPIFFE client library of PyPI: a JSON command a line in, a JSON answer a line out.

Run it with the environment of `tests.support.spiffe_client`; it must import nothing of the mesh.
"""

import json
import sys
import threading
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from spiffe import JwtSource, TrustDomain, WorkloadApiClient, X509Source  # type: ignore[attr-defined]


def pem(certificates: Any) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def svid_of(source: Any) -> dict[str, Any]:
    context = source.get_x509_context()
    svid = context.default_svid
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    bundles = {one.trust_domain.name: pem(one.x509_authorities) for one in context.x509_bundle_set.bundles}
    return {"spiffe_id": str(svid.spiffe_id), "chain": pem(svid.cert_chain), "key": key, "bundles": bundles}


class App:
    def __init__(self, ours: str) -> None:
        self.ours = TrustDomain(ours)
        self.client = WorkloadApiClient()
        self.changed = threading.Event()

    @cached_property
    def x509(self) -> Any:
        source = X509Source()
        source.subscribe_for_updates(self.changed.set)
        return source

    @cached_property
    def jwt(self) -> Any:
        return JwtSource()

    def do(self, command: str, *arguments: str) -> Any:
        match command:
            case "svid":
                return svid_of(self.x509)
            case "next":  # after the source has seen an update since the last time
                seen = self.changed.wait(10)
                self.changed.clear()
                return svid_of(self.x509) if seen else "nothing came"
            case "fetch":
                return [str(one.spiffe_id) for one in self.client.fetch_x509_svids()]
            case "x509 bundles":
                return sorted(one.trust_domain.name for one in self.client.fetch_x509_bundles().bundles)
            case "jwt":
                token = self.jwt.fetch_svid(audience=set(arguments))
                return {"id": str(token.spiffe_id), "token": token.token, "audience": sorted(token.audience)}
            case "jwt bundles":
                return {one.trust_domain.name: sorted(one.jwt_authorities) for one in self.jwt.bundles}
            case "validate":
                return str(self.client.validate_jwt_svid(*arguments).spiffe_id)
        raise ValueError(command)


def main() -> None:
    app = App(sys.argv[1])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        try:
            answer = app.do(*json.loads(line))
        except Exception as error:  # the test reads which
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
