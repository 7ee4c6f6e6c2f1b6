"""The files of `meshadm init`: made once, whole, with the right modes; found by the next run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from controlplane import config
from controlplane.bootstrap import files
from controlplane.bootstrap.layout import Layout, Pair
from controlplane.bootstrap.options import InitOptions
from schemas.errors import Conflict, InvalidInput
from tests.controlplane.ca import openssl

NOW = 1_800_000_000
YEAR = 365 * 24 * 3600
SECRETS = ("kek", "etcd/ca.key", "etcd/server.key", "etcd/root.key", "etcd/replica.key", "etcd/tooling.key")
PUBLIC = (
    "controlplane.yaml",
    "etcd/ca.crt",
    "etcd/clients.crl",
    "etcd/server.crt",
    "etcd/root.crt",
    "etcd/replica.crt",
    "etcd/tooling.crt",
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "mesh")


@pytest.fixture
def options(layout: Layout) -> InitOptions:
    return InitOptions(
        layout.directory, "mesh.example", etcd=("10.0.0.1:2379", "[fd00::1]:2379", "etcd-3.example:2379")
    )


def prepare(options: InitOptions, layout: Layout, now: float = NOW) -> files.Prepared:
    return files.prepare(options, layout, now, {})


def content(layout: Layout) -> dict[str, bytes]:
    return {
        str(path.relative_to(layout.directory)): path.read_bytes()
        for path in layout.directory.rglob("*")
        if path.is_file()
    }


def common_name(pair: Pair) -> list[str | bytes]:
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    return [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def test_all_files_are_made_with_their_modes_whatever_the_umask(layout: Layout, options: InitOptions) -> None:
    for umask, directory in ((0o000, "a"), (0o077, "b")):
        before = os.umask(umask)
        try:
            mine = Layout(layout.directory / directory)
            mine.etcd.mkdir(parents=True, mode=0o700)
            prepare(options, mine)
        finally:
            os.umask(before)
        assert set(content(mine)) == {*SECRETS, *PUBLIC}
        for name in SECRETS:
            assert stat.S_IMODE((mine.directory / name).stat().st_mode) == 0o600, name
        for name in PUBLIC:
            assert stat.S_IMODE((mine.directory / name).stat().st_mode) == 0o644, name


def test_a_second_run_changes_nothing_and_says_so(layout: Layout, options: InitOptions) -> None:
    first = prepare(options, layout)
    before = content(layout)
    second = prepare(options, layout, NOW + 3600)
    assert content(layout) == before
    assert {step.outcome for step in first.steps} == {"done"}
    assert {step.outcome for step in second.steps} == {"already"}
    assert second.kek.id == first.kek.id


@pytest.mark.parametrize("name", [*SECRETS[1:], *PUBLIC])
def test_a_run_cut_short_is_taken_up(layout: Layout, options: InitOptions, name: str) -> None:
    """A run that died just before `name` was made: it and all that comes after it are missing."""
    prepare(options, layout)
    order = ["kek", "etcd/ca.key", "etcd/ca.crt"]
    for pair in ("server", "root", "replica", "tooling"):
        order += [f"etcd/{pair}.key", f"etcd/{pair}.crt"]
    order += ["etcd/clients.crl", "controlplane.yaml"]
    before = content(layout)
    kept, lost = order[: order.index(name)], order[order.index(name) :]
    for one in lost:
        (layout.directory / one).unlink()
    prepare(options, layout)
    after = content(layout)
    assert set(after) == set(before)
    assert {one: after[one] for one in kept} == {one: before[one] for one in kept}


def test_who_is_who(layout: Layout, options: InitOptions) -> None:
    prepare(options, layout)
    assert common_name(layout.root) == ["root"]
    assert common_name(layout.replica) == ["mesh-replica"]
    assert common_name(layout.tooling) == ["mesh-tooling"]
    assert common_name(layout.server) == []
    server = x509.load_pem_x509_certificate(layout.server.certificate.read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {"10.0.0.1", "fd00::1", "etcd-3.example"}


@openssl.available
def test_openssl_believes_them(tmp_path: Path, layout: Layout, options: InitOptions) -> None:
    prepare(options, layout)
    ca = [x509.load_pem_x509_certificate(layout.ca.certificate.read_bytes())]
    for pair, purpose in (
        (layout.server, "sslserver"),
        (layout.server, "sslclient"),
        (layout.root, "sslclient"),
        (layout.replica, "sslclient"),
    ):
        leaf = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        chain = [leaf.public_bytes(Encoding.DER)]
        assert openssl.verify(tmp_path, chain, ca, purpose, NOW) == "leaf.pem: OK"


def test_the_configuration_is_one_that_a_replica_takes(layout: Layout, options: InitOptions) -> None:
    prepare(options, layout)
    loaded = config.load(layout.config)
    assert loaded.etcd.endpoints == options.etcd
    assert loaded.etcd.ca == str(layout.ca.certificate)
    assert (loaded.etcd.cert, loaded.etcd.key) == (str(layout.replica.certificate), str(layout.replica.key))
    assert loaded.kek_path({}) == layout.kek
    assert (loaded.listen.api, loaded.listen.join) == (options.api, options.join)
    assert not loaded.etcd.allow_known_bad


def test_an_existing_configuration_is_yours(layout: Layout, options: InitOptions) -> None:
    layout.directory.mkdir()
    layout.config.write_text("# mine\n")
    prepare(options, layout)
    assert layout.config.read_text() == "# mine\n"


def test_once_the_ca_key_is_gone_the_rest_is_still_found(layout: Layout, options: InitOptions) -> None:
    assert prepare(options, layout).etcd.ca is not None
    assert files.remove_ca_key(layout)
    assert not files.remove_ca_key(layout)
    again = prepare(options, layout)
    assert again.etcd.ca is None
    assert {step.outcome for step in again.steps} == {"already"}
    assert not files.needs_sealed_ca(layout, NOW)
    layout.replica.certificate.unlink()
    layout.replica.key.unlink()
    assert files.needs_sealed_ca(layout, NOW)
    with pytest.raises(InvalidInput, match=r"replica\.crt.*sealed in etcd"):
        prepare(options, layout)


def test_the_list_of_revoked_clients_is_empty_and_never_made_anew(layout: Layout, options: InitOptions) -> None:
    """What a replica or an operator has put there since must not be lost to another run."""
    prepare(options, layout)
    listed = x509.load_der_x509_crl(layout.crl.read_bytes())
    ca = x509.load_pem_x509_certificate(layout.ca.certificate.read_bytes())
    assert (len(listed), listed.issuer) == (0, ca.subject)
    assert listed.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # an elliptic-curve key
    layout.crl.write_bytes(b"newer")
    files.remove_ca_key(layout)
    prepare(options, layout)
    assert layout.crl.read_bytes() == b"newer"
    layout.crl.unlink()
    (said,) = (step for step in prepare(options, layout).steps if step.subject == str(layout.crl))
    assert (said.outcome, layout.crl.exists()) == ("warning", False)


def test_a_certificate_without_its_key_is_not_given_another(layout: Layout, options: InitOptions) -> None:
    prepare(options, layout)
    layout.server.key.unlink()
    with pytest.raises(InvalidInput, match=r"server\.key: is missing.*remove .*server\.crt too"):
        prepare(options, layout)
    assert not layout.server.key.exists()
    layout.server.certificate.unlink()
    prepare(options, layout)


def test_files_of_two_runs_do_not_mix(layout: Layout, options: InitOptions, tmp_path: Path) -> None:
    prepare(options, layout)
    other = Layout(tmp_path / "other")
    prepare(options, other)
    own = layout.replica.key.read_bytes()
    layout.replica.key.write_bytes(other.replica.key.read_bytes())
    with pytest.raises(InvalidInput, match="does not belong to"):
        prepare(options, layout)
    layout.replica.key.write_bytes(own)
    layout.ca.certificate.write_bytes(other.ca.certificate.read_bytes())
    layout.ca.key.write_bytes(other.ca.key.read_bytes())
    with pytest.raises(InvalidInput, match="not signed by the CA"):
        prepare(options, layout)


@pytest.mark.parametrize("name", ["etcd/ca.crt", "etcd/server.crt", "etcd/root.key", "kek"])
def test_a_file_with_other_content_is_named(layout: Layout, options: InitOptions, name: str) -> None:
    prepare(options, layout)
    (layout.directory / name).write_bytes(b"garbage")
    with pytest.raises(InvalidInput, match=name):
        prepare(options, layout)


def test_a_certificate_near_its_end_is_renewed_for_the_same_key(layout: Layout, options: InitOptions) -> None:
    prepare(options, layout)
    before = content(layout)
    late = NOW + 5 * YEAR - 24 * 3600
    renewed = [Path(step.subject).name for step in prepare(options, layout, late).steps if step.outcome == "done"]
    assert renewed == ["server.crt", "root.crt", "replica.crt", "tooling.crt"]
    after = content(layout)
    assert {name for name in before if after[name] != before[name]} == {f"etcd/{name}" for name in renewed}
    certificate = x509.load_pem_x509_certificate(layout.server.certificate.read_bytes())
    assert certificate.not_valid_after_utc.timestamp() == late + 5 * YEAR
    assert prepare(options, layout, late).steps == prepare(options, layout, late).steps
    assert {step.outcome for step in prepare(options, layout, late).steps} == {"already"}
    files.remove_ca_key(layout)
    assert not files.needs_sealed_ca(layout, late)
    assert files.needs_sealed_ca(layout, late + 5 * YEAR - 24 * 3600)


def test_no_certificate_outlives_its_ca(layout: Layout, options: InitOptions) -> None:
    prepare(options, layout)
    prepare(options, layout, NOW + 7 * YEAR)
    ca, server = (x509.load_pem_x509_certificate(pair.certificate.read_bytes()) for pair in (layout.ca, layout.server))
    assert server.not_valid_after_utc == ca.not_valid_after_utc


def test_a_directory_that_can_not_be_made_is_an_error_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    layout = Layout(tmp_path / "file" / "mesh")
    with pytest.raises(InvalidInput, match="another --dir"):
        prepare(InitOptions(layout.directory, "mesh.example"), layout)


def test_nothing_secret_is_in_what_is_reported(layout: Layout, options: InitOptions) -> None:
    prepared = prepare(options, layout)
    said = repr(prepared)
    assert "PRIVATE KEY" not in said
    assert layout.kek.read_bytes().hex() not in said
    assert repr(layout.kek.read_bytes())[2:-1] not in said


def test_two_runs_on_one_directory_do_not_overlap(layout: Layout) -> None:
    with files.only_one(layout), pytest.raises(Conflict, match="another `meshadm init`"), files.only_one(layout):
        pass
    with files.only_one(layout):
        pass
