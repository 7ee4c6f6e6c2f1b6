"""Each metric in docs/metrics.md and deploy/observability, and each label, is one that is exposed; and back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from controlplane.api.issuing import Issuing, Told
from controlplane.key_sets.places import Places
from controlplane.metrics import ReplicaMetrics
from controlplane.revocations import Revocations
from controlplane.rotation.expiry import Watch
from controlplane.store.boards import ConfigClock, MeshView, StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.lease_alarm import LeaseAlarm
from dataplane import metrics
from dataplane.envoy import stats
from dataplane.identity.material import EtcdAccess, Identity
from schemas import codec
from schemas.key_sets import place_of
from schemas.keys import Keyspace, StatusRef
from schemas.names import SpiffeId
from schemas.objects import Telemetry
from schemas.records import KeySetStatus, OpenStreams, SidecarStatus, TrustBundle
from telemetry.families import Family
from tests.states.build import authentication, key_set
from tests.support.metrics import Metrics, as_scraped, documented
from tests.support.tokens import NOBODYS
from trio_etcd import Client, KeyValue, Listing, open_etcd

KEYS = Keyspace()
HERE = Path(__file__).parents[2] / "deploy" / "observability"
ALERTS = yaml.safe_load((HERE / "prometheus" / "alerts.yaml").read_text())
DASHBOARD = json.loads((HERE / "grafana" / "hostmesh.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
# What Prometheus adds to each sample, and what it makes itself.
OF_A_TARGET = {"job", "instance"}
OF_PROMETHEUS: Metrics = {
    "up": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}
STATUS = SidecarStatus(
    service="web", namespace="shop", instance="web-1", applied_revision=2, acked_revision=1, svid_expires=10**10,
    open_streams=OpenStreams(bound_ms=2000),
)  # fmt: skip


def sidecar() -> Iterator[Family]:
    """All that an agent tells, by the functions that tell it."""
    bundle = TrustBundle(trust_domain="mesh.test", sequence=1, x509_authorities=())
    etcd = EtcdAccess((), b"", b"", b"", 10**10)
    who = SpiffeId.parse("spiffe://mesh.test/ns/shop/svc/web")
    identity = Identity(who, b"", b"", bundle, etcd, (), KEYS.prefix, 0, 10**10)
    yield from metrics.of_sidecar(STATUS, identity, {"ok": 1}, 0.0)
    yield from metrics.of_names({"answered": 1})
    own = "\n".join(f"envoy_{name} 1" for name in ("server_memory_allocated", "server_uptime", "server_live"))
    yield from stats.families(stats.read(own, who))


def replica(etcd: Client) -> Iterator[Family]:
    """All that a replica tells."""
    store, board = Store(etcd, KEYS), StatusBoard(KEYS)
    kv = KeyValue(KEYS.status(StatusRef("shop", "web.web-1")), codec.encode(STATUS), 1, 1, 1, 0)
    board.listed(Listing(1, (kv,)))
    issuing = Issuing(Told(b"", (), (), (), KEYS.prefix), lambda: 0.0, lambda _: b"")
    leases = LeaseAlarm(store, board)
    leases.leases = 3
    view, clock, revocations = MeshView(KEYS), ConfigClock(), Revocations(store, None)
    metrics = ReplicaMetrics(
        issuing, view, board, clock, leases, revocations, etcd.watch_link, places_of_keys(), Watch((), float)
    )
    yield from metrics.collect()


def places_of_keys() -> Places:
    """One that was fetched."""
    places, uri = Places(KEYS, lambda: None), "https://login.example.com/keys"
    people = authentication("people", {"issuer": "https://login.example.com", "jwksUri": uri})
    status = KeySetStatus(uri=uri, tried=1, fetched=1)
    for sink, (key, value) in (
        (places.naming, (KEYS.object(people.ref), codec.encode(people))),
        (places.key_sets, key_set(uri, NOBODYS)),
        (places.statuses, (KEYS.key_set_status(place_of(status)), codec.encode(status))),
    ):
        sink.listed(Listing(1, (KeyValue(key, value, 1, 1, 1, 0),)))
    return places


def named(families: Iterable[Family]) -> tuple[Metrics, set[str]]:
    """Names as they are scraped, but of a histogram its own; and which are histograms."""
    found: Metrics = {}
    histograms = set()
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = frozenset(family._labelnames)  # a family without samples says it nowhere else
        if family.type == "histogram":
            histograms.add(name)
    return found, histograms


@pytest.fixture(scope="module")
def exposed() -> tuple[Metrics, set[str]]:
    async def ask() -> tuple[Metrics, set[str]]:
        async with open_etcd("http://127.0.0.1:1") as client:  # nobody has to answer
            return named([*sidecar(), *replica(client)])

    return trio.run(ask)


@pytest.fixture(scope="module")
def known(exposed: tuple[Metrics, set[str]]) -> Metrics:
    return {**as_scraped(*exposed), **OF_PROMETHEUS}


def test_the_page_lists_every_metric_and_label_and_no_other(exposed: tuple[Metrics, set[str]]) -> None:
    assert documented() == exposed[0]


# -- PromQL, as far as needed to find names and labels in it

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\s*\{([^}]*)\}")
_WORD = re.compile(r"(?<![\w$.:])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "by", "without", "on", "ignoring"}


def check_expression(expression: str, known: Metrics) -> frozenset[str]:
    """Raises AssertionError for a name or a label that nobody exposes; the labels that its metrics have."""
    plain = _STRING.sub('""', re.sub(r"\$__\w+|\[[^\]]*\]", "", expression))
    for name, conditions in _SELECTOR.findall(plain):
        assert name, f"{expression}: a selector without a metric"
        labels = {one.strip() for one in re.findall(r"(\w+)\s*[=!]", conditions)}
        assert labels <= known.get(name, frozenset()) | OF_A_TARGET, f"{expression}: {name} has no {labels}"
    without_selectors = _SELECTOR.sub(r"\1", plain)
    names = set(_WORD.findall(_GROUPING.sub("", without_selectors))) - _KEYWORDS
    assert names, f"{expression} asks for nothing"
    assert names <= known.keys(), f"{expression}: nobody exposes {names - known.keys()}"
    all_labels = frozenset().union(*(known[name] for name in names)) | OF_A_TARGET
    for group in _GROUPING.findall(plain):
        grouped = set(re.findall(r"\w+", group))
        assert grouped <= all_labels, f"{expression}: no {grouped - all_labels} to group by"
    # What is left to name in a text: where all is aggregated, what it is grouped by.
    groups = re.match(
        r"\s*(?:topk\(\d+,\s*)?(?:histogram_quantile\([\d.]+,\s*)?(?:sum|max|min|count)\b(.*)", plain, re.S
    )
    if groups is None:
        return all_labels
    by = re.match(r"\s*by\s*\(([^)]*)\)", groups[1])
    return frozenset(re.findall(r"\w+", by[1])) - {"le"} if by else frozenset()


def test_expressions_are_understood(known: Metrics) -> None:
    """That the checks below would fail."""
    check_expression('sum by (side) (rate(hostmesh_requests_total{code="5xx"}[5m])) > 2', known)
    for wrong in (
        "hostmesh_request_total",
        'hostmesh_requests_total{status="5xx"}',
        "sum by (verb) (hostmesh_requests_total)",
        "rate(hostmesh_requests[5m])",
        "hostmesh_request_duration_seconds > 1",
    ):
        with pytest.raises(AssertionError):
            check_expression(wrong, known)
    assert check_expression("sum by (side) (hostmesh_requests_total)", known) == {"side"}
    assert "code" in check_expression("hostmesh_requests_total > 1", known)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_is_exposed(rule: dict[str, Any], known: Metrics) -> None:
    labels = check_expression(rule["expr"], known)
    assert rule["labels"]["severity"] in ("critical", "warning")
    texts = rule["annotations"]
    assert texts.keys() == {"summary", "description"}
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(texts.values())))
    assert used <= labels, f"{rule['alert']} names {used - labels}"


def test_every_alert_has_a_name_of_its_own() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    mentioned = set(re.findall(r"\bHostmesh[A-Z]\w+", (HERE / "prometheus" / "alerts.yaml").read_text()))
    assert mentioned == set(names)


def test_the_dashboard_asks_for_what_is_exposed(known: Metrics) -> None:
    asked = 0
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            labels = check_expression(target["expr"], known)
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert used <= labels, (panel["title"], used)
            asked += 1
    assert asked > 30
    for annotation in DASHBOARD["annotations"]["list"]:
        check_expression(annotation["expr"], known)
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    of_service = re.fullmatch(r"label_values\((.*), (\w+)\)", variables["destination"]["query"]["query"])
    assert of_service is not None
    assert of_service[2] in check_expression(of_service[1], known)
    used_variables = set(re.findall(r"\$\{?([a-z]\w+)", json.dumps(DASHBOARD["panels"])))
    assert used_variables <= variables.keys()


def test_panels_have_their_own_place() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_prometheus_scrapes_the_jobs_that_alerts_know() -> None:
    directory = HERE / "prometheus"
    config = yaml.safe_load((directory / "prometheus.yaml").read_text())
    jobs = {one["job_name"] for one in config["scrape_configs"]}
    texts = "".join(rule["expr"] for rule in RULES) + json.dumps(DASHBOARD).replace("\\", "")
    assert set(re.findall(r'job="(\w+)"', texts)) == jobs
    files = [
        *config["rule_files"],
        *(name for job in config["scrape_configs"] for sd in job["file_sd_configs"] for name in sd["files"]),
    ]
    assert {path.relative_to(directory).as_posix() for path in directory.glob("targets/*")} < set(files)
    for name in files:
        assert yaml.safe_load((directory / name).read_text()), name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on this host")
def test_promtool_agrees() -> None:
    for arguments in (["check", "config", "prometheus.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run(["promtool", *arguments], cwd=HERE / "prometheus", capture_output=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout


def test_the_collector_runs_what_it_has_and_sidecars_find_it() -> None:
    directory = HERE / "otel-collector"
    config = yaml.safe_load((directory / "collector.yaml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for part, names in pipeline.items():
            assert set(names) <= config[part].keys()
    for part in ("receivers", "processors", "exporters"):
        used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline[part]}
        assert used == config[part].keys()
    assert set(config["service"]["extensions"]) == config["extensions"].keys()
    (document,) = codec.load_yaml((directory / "telemetry.yaml").read_text(), "telemetry.yaml")
    assert isinstance(document.object, Telemetry)
    tracing = document.object.spec.tracing
    assert tracing is not None
    assert tracing.provider is not None
    assert tracing.provider.address == config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    (job,) = config["receivers"]["prometheus"]["config"]["scrape_configs"]
    assert job["job_name"] == "sidecars"
