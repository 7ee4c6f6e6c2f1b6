"""The documents keep up with the code."""

import re
from pathlib import Path

import msgspec

from dataplane.config import SidecarSettings
from deploy.demo.scenario import SHOP
from schemas import codec

DOCS = Path(__file__).parents[1]


def test_every_setting_of_a_sidecar_is_documented() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "docs" / "sidecar.md").read_text(), re.MULTILINE))
    assert rows == {field.encode_name for field in msgspec.structs.fields(SidecarSettings)}


def test_every_object_in_the_documents_is_valid() -> None:
    found = 0
    for page in (DOCS / "README.md", *sorted((DOCS / "docs").glob("*.md"))):
        for block in re.findall(r"```yaml\n(apiVersion.*?)```", page.read_text(), re.DOTALL):
            found += len(codec.load_yaml(block, page.name))
    assert found >= 3


def test_every_example_is_valid() -> None:
    names = {
        str(one.object.ref) for path in SHOP.glob("*.yaml") for one in codec.load_yaml(path.read_text(), path.name)
    }
    assert "Service shop/orders" in names


def test_links_between_documents_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), *(DOCS / "docs").glob("*.md"), *(DOCS / "deploy").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
