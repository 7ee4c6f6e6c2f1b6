"""The first records of a mesh, as one all-or-nothing write. Pure: keys, randomness and time are passed in."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca import template as templates
from controlplane.ca.check import checked
from controlplane.ca.jwt_key import new_signer, seal_signer
from controlplane.ca.seal import KeyEncryption, seal_key
from controlplane.ca.sign import Issuer, self_signed, serial_number, signed
from controlplane.ca.states import Role
from controlplane.ca.template import Validity
from schemas import codec
from schemas.keys import Keyspace
from schemas.names import SYSTEM_NAMESPACE, ObjectRef
from schemas.objects.common import Metadata
from schemas.objects.mesh import Mesh, MeshSpec
from schemas.records import Epoch
from spiffe import bundle
from spiffe.key_ids import subject_key_id

MESH_REF = ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh")
_ID_BYTES = 8  # ids have only to differ from each other
_EPOCH_BYTES = 16  # must differ from every epoch that any backup of this mesh holds


@dataclass(frozen=True, slots=True)
class Genesis:
    """`puts` are to be written in one transaction if none of `absent` exists."""

    absent: tuple[bytes, ...]
    puts: tuple[tuple[bytes, bytes], ...]


async def genesis(
    trust_domain: str,
    keyspace: Keyspace,
    *,
    root_key: ec.EllipticCurvePrivateKey,
    issuing_key: ec.EllipticCurvePrivateKey,
    jwt_key: ec.EllipticCurvePrivateKey,
    etcd_ca: Issuer,
    kek: KeyEncryption,
    random: Callable[[int], bytes],
    now: float,
) -> Genesis:
    """Epoch, Mesh, the three CA keys and the JWT key (sealed, active), and the trust bundle.

    `random(n)`: n unpredictable bytes. `now`: seconds since 1970. Asynchronous because a `KeyEncryption` may be.
    """

    def key_id(role: Role) -> str:
        return f"{role}-{random(_ID_BYTES).hex()}"

    root_id, issuing_id, etcd_id = key_id("mesh-root"), key_id("mesh-issuing"), key_id("etcd-client")
    template = templates.mesh_root(trust_domain, root_id, Validity.starting(now, templates.ROOT_SECONDS))
    certificate = self_signed(template, root_key, serial_number(random(20)))
    root = Issuer(checked(certificate, template, root_key.public_key(), None), root_key)

    template = templates.mesh_issuing(trust_domain, issuing_id, Validity.starting(now, templates.ISSUING_SECONDS))
    certificate = signed(template, issuing_key.public_key(), root, serial_number(random(20)))
    issuing = Issuer(checked(certificate, template, issuing_key.public_key(), root.certificate), issuing_key)

    signer = new_signer(jwt_key, now, random)
    sealed = (
        await seal_key(root_id, "mesh-root", root, kek),
        msgspec.structs.replace(await seal_key(issuing_id, "mesh-issuing", issuing, kek), signed_by=root_id),
        await seal_key(etcd_id, "etcd-client", etcd_ca, kek),
        await seal_signer(signer, kek),
    )
    mesh = Mesh(
        api_version="mesh/v1",
        metadata=Metadata(name=MESH_REF.name, namespace=MESH_REF.namespace),
        spec=MeshSpec(trust_domain=trust_domain),
    )
    # How long leaves may live bounds how long a retired key is waited for.
    bounds = {"since": int(now), "leaf_seconds": mesh.spec.svid_ttl_seconds}
    records = tuple(
        msgspec.structs.replace(record, **bounds) if record.role in ("mesh-root", "mesh-issuing") else record
        for record in sealed
    )
    trusted = bundle.record(trust_domain, [root.certificate], 1, [signer.authority])
    trusted = msgspec.structs.replace(trusted, issuing_key_id=subject_key_id(issuing.certificate))
    epoch, trust = keyspace.epoch(), keyspace.trust_bundle(trust_domain)
    puts = (
        *((keyspace.ca_key(record.id), codec.encode(record)) for record in records),
        (keyspace.object(MESH_REF), codec.encode(mesh)),
        (epoch, codec.encode(Epoch(id=random(_EPOCH_BYTES).hex()))),
        (trust, codec.encode(trusted)),
    )
    # The ids of keys differ from run to run, so what guards is what every run would write.
    return Genesis((epoch, keyspace.object(MESH_REF), trust), puts)
