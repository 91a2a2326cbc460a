"""The files that publish the project: workflows, templates, citation, one version everywhere; no syntax beyond Python 3.10."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import check_version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def read(file: Path) -> Any:
    return yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)  # `on` is a text there, too


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda f: f.name)
def test_a_workflow_pins_its_actions_limits_its_time_and_may_only_read(file: Path) -> None:
    flow = read(file)
    assert {"name", "on", "permissions", "jobs"} <= flow.keys()
    assert flow["permissions"] == {"contents": "read"}
    for name, job in flow["jobs"].items():
        assert int(job["timeout-minutes"]) <= 120, name
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"]), name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), name
            assert re.fullmatch(r"[\w./-]+@v\d+(\.\d+\.\d+)?", step.get("uses", "a@v1")), step
            for command in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                if command != "docs":  # comes with the documentation's site
                    assert f"\n{command}:" in (ROOT / "Makefile").read_text(), command
            for script in re.findall(r"scripts/[\w.]+", step.get("run", "")):
                assert (ROOT / script).is_file(), script
    needed = {n for job in flow["jobs"].values() if "needs" in job for n in [job["needs"]]}
    assert needed <= flow["jobs"].keys()


def test_ci_runs_every_python_that_the_package_claims() -> None:
    [ci] = [read(f) for f in WORKFLOWS if f.name == "ci.yml"]
    tested = ci["jobs"]["tests"]["strategy"]["matrix"]["python"]
    classified = [c.rsplit(" ", 1)[1] for c in project()["classifiers"] if ":: 3." in c]
    assert tested == classified == ["3.10", "3.11", "3.12", "3.13"]
    assert project()["requires-python"] == ">=3.10"


def test_a_release_checks_the_tag_and_holds_no_token() -> None:
    [release] = [read(f) for f in WORKFLOWS if f.name == "release.yml"]
    assert release["on"] == {"push": {"tags": ["v*"]}}
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    commands = [step.get("run", "") for step in build["steps"]]
    assert any("check_version.py" in c for c in commands)
    assert any("check_wheel.sh" in c for c in commands)
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_one_version_stands_everywhere_and_a_wrong_tag_is_named() -> None:
    found = check_version.versions()
    assert {*found.values()} == {project()["version"]}
    version = project()["version"]
    assert check_version.fault(found, f"v{version}") is None
    assert check_version.fault(found, "v9.9.9") == (
        f"the tag is v9.9.9, and the version is {version}: the tag should be v{version}"
    )
    other = {**found, "CITATION.cff": "0.0.1"}
    assert check_version.fault(other, None) == f"pyproject.toml says {version}, and CITATION.cff says 0.0.1"


def test_the_changelog_begins_with_what_is_unreleased_and_dates_what_is_not() -> None:
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", head) for head in heads[1:])


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda f: f.name)
def test_an_issue_template_is_a_form(file: Path) -> None:
    form = read(file)
    if file.name == "config.yml":
        assert form == {"blank_issues_enabled": "true"}
        return
    assert {"name", "description", "body"} <= form.keys()
    kinds = {"markdown", "textarea", "input", "checkboxes"}
    assert {part["type"] for part in form["body"]} <= kinds
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len({*ids})
    assert all(part["type"] == "markdown" or part["attributes"]["label"] for part in form["body"])


def test_the_citation_has_what_the_format_asks_for() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "date-released"} <= citation.keys()
    assert citation["authors"] == [{"name": "The fedloom authors"}]
    assert citation["license"] == project()["license"]
    titles = " ".join(r["title"] for r in citation["references"])
    for paper in ("UniFLoW", "pFedMMA", "FedMMKT", "Federated Pretraining"):
        assert paper in titles
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= reference.keys()
        assert all({"family-names", "given-names"} == author.keys() for author in reference["authors"])
    head = re.search(r"^## \d\S* - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert head is not None
    assert citation["date-released"] == head.group(1)


def test_no_file_needs_a_newer_syntax_than_python_3_10() -> None:
    for folder in ("src", "scripts", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, 10))


def test_links_of_the_security_page_lead_somewhere() -> None:
    for name in ("SECURITY.md", ".github/pull_request_template.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
            assert (ROOT / link).is_file(), link


def test_the_tests_can_be_installed_where_flower_cannot() -> None:
    """Flower needs Python 3.11: by itself in `dev`, since hatchling drops the marker of an extra within an extra."""
    extras = project()["optional-dependencies"]
    [flower] = [r for r in extras["dev"] if r.startswith("flwr")]
    name, _, marker = flower.partition("; ")
    assert marker == "python_version >= '3.11'"
    assert name in extras["flower"]
    assert not [r for r in extras["dev"] if r.startswith("fedloom[") and ("flower" in r or ";" in r)]
