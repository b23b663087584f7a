"""Our own suite for gateways: its arithmetic, report and access to a cluster; a mutant for each check."""

import asyncio
import base64
import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import yaml

from testbed.cluster.api import Api, Kubeconfig
from testbed.strict.__main__ import options, target
from testbed.strict.checks import CHECKS
from testbed.strict.client import Answer
from testbed.strict.mutants import MUTANTS
from testbed.strict.report import FAIL, PASS, SKIP, Result, passed, report, summary
from testbed.strict.run import chosen, skipped
from testbed.strict.site import SURE, Failed, Site, objects
from testbed.strict.statistics import (
    EARLY_FALSE_ALARM,
    FALSE_ALARM,
    bounds,
    draws_for,
    false_alarm,
    hopeless,
)
from testbed.strict.target import BadKubeconfig, Target, read_access
from testbed.strict.workloads import Images

SHARES = (0.7, 0.6, 0.99)


# --- weights ---


def by_hand(draws: int, share: float) -> float:
    """The probability that fewer or more hits come than are allowed, by Python's integers."""
    low, high = bounds(draws, share)
    out = [k for k in range(draws + 1) if not low <= k <= high]
    return math.fsum(math.comb(draws, k) * share**k * (1 - share) ** (draws - k) for k in out)


@pytest.mark.parametrize("share", SHARES)
def test_false_alarms_are_those_of_the_binomial_distribution(share: float) -> None:
    assert false_alarm(200, share) == pytest.approx(by_hand(200, share), rel=1e-6)


@pytest.mark.parametrize("share", SHARES)
def test_no_fewer_requests_are_enough(share: float) -> None:
    wanted = draws_for(share)
    assert false_alarm(wanted, share) < FALSE_ALARM <= false_alarm(wanted - 50, share)


def test_all_weights_together_fail_a_right_gateway_less_than_once_in_a_million() -> None:
    looks = sum(draws_for(share) / 100 for share in SHARES)
    # Each look can reject both too few and too many.
    assert (
        sum(map(false_alarm, map(draws_for, SHARES), SHARES)) + 2 * looks * EARLY_FALSE_ALARM < 1e-6
    )


@pytest.mark.parametrize(("share", "really"), [(0.7, 0.64), (0.6, 0.54), (0.99, 0.93)])
def test_a_gateway_that_is_six_points_off_is_rejected(share: float, really: float) -> None:
    draws = draws_for(share)
    low, _ = bounds(draws, share)
    dice = random.Random(7)
    assert all(sum(dice.random() < really for _ in range(draws)) < low for _ in range(20))


def test_a_pool_of_a_hundredth_must_serve() -> None:
    assert bounds(1550, 0.99) == (1488, 1549)


@pytest.mark.parametrize(("hits", "draws"), [(0, 40), (40, 100), (100, 100)])
def test_a_hopeless_share_needs_no_more_requests(hits: int, draws: int) -> None:
    assert hopeless(hits, draws, 0.7)
    assert not hopeless(round(0.7 * draws), draws, 0.7)


def test_a_share_of_all_requests_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="no share"):
        draws_for(1.0)


# --- checks and mutants ---


def test_each_check_has_a_mutant_that_it_has_to_fail() -> None:
    assert {check for mutant in MUTANTS.values() for check in mutant.fails} == set(CHECKS)


def test_what_the_mutants_replace_is_there() -> None:
    script = (
        "from testbed.strict.mutants import MUTANTS, make_subset_hints\n"
        "make_subset_hints()\n"
        "for mutant in MUTANTS.values(): mutant.breaks()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_checks_know_the_pods_that_they_need() -> None:
    async def made() -> Counter[str]:
        site = Site(nowhere(), "strict", None, "example.com/gateway")  # type: ignore[arg-type]
        needs = {need for check in CHECKS.values() for need in check.needs}
        return Counter(item["kind"] for item in objects(site, needs))

    kinds = asyncio.run(made())
    # Five groups of servers with their pickers, dead Pods, and the simulated picker.
    assert kinds["Deployment"] == 5 * 2 + 1 + 1
    assert kinds["InferencePool"] == 5


def nowhere(**more: Any) -> Target:
    return Target(Api(Kubeconfig("https://127.0.0.1:1", Path("/none"))), "foreign", **more)


def test_checks_that_need_more_than_there_is_are_skipped_with_the_reason() -> None:
    assert skipped(CHECKS["streams"], nowhere()) == "it needs --image"
    assert skipped(CHECKS["weights-70-30"], nowhere()) == ""
    assert "--subset-header" in skipped(CHECKS["subset-hint"], nowhere())
    full = nowhere(images=Images(simulated="testbed"), subset_header="x-subset")
    assert [check for check in chosen([]) if skipped(check, full)] == []


def test_an_outcome_that_is_not_expected_fails_and_says_who_served() -> None:
    async def run() -> None:
        site = Site(nowhere(patience=0.3), "strict", None, "")  # type: ignore[arg-type]
        answers = iter([Answer(200, body=b'{"pod": "alpha-1"}'), Answer(404, body=b"no route")])

        async def one() -> Answer:
            return next(answers)

        await site.always(one, {"200 alpha"}, 1)
        await site.always(one, {"200 alpha"}, 1)

    with pytest.raises(Failed, match="expected 200 alpha, but a request had 404 no route"):
        asyncio.run(run())


def test_an_expected_outcome_has_to_occur() -> None:
    async def run() -> None:
        site = Site(nowhere(), "strict", None, "")  # type: ignore[arg-type]

        async def one() -> Answer:
            return Answer(503)

        await site.always(one, {"200 alpha", "503"}, 8)

    with pytest.raises(Failed, match="of 8 requests none had 200 alpha"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("hopeless", "patience", "waited"), [("", 0.5, 0.5), ("500", 0.5, 0.5), ("404", 60.0, SURE)]
)
def test_what_never_comes_is_waited_for_unless_it_is_hopeless(
    hopeless: str, patience: float, waited: float
) -> None:
    async def run() -> None:
        target = nowhere(patience=patience)
        site = Site(target, "strict", None, "", hopeless=hopeless)  # type: ignore[arg-type]

        async def holds() -> str:
            return "1 of 1: 404"

        await site.until("expected 200", holds)

    begun = monotonic()
    with pytest.raises(Failed, match=r"expected 200: not within \d+ s: 1 of 1: 404"):
        asyncio.run(run())
    assert monotonic() - begun >= waited


# --- the report ---

RESULTS = [
    Result("one", "One is done.", PASS, 1.23),
    Result("two", "Two is done.", FAIL, 2.0, "expected 200, got 404"),
    Result("three", "Three is done.", SKIP, 0.0, "it needs --image"),
]


def test_a_report_has_every_check_with_what_it_said() -> None:
    read = yaml.safe_load(report("epp-client", "epp-client.dev/gateway", RESULTS))
    assert read["summary"] == summary(RESULTS) == "1 passed, 1 failed, 1 skipped"
    assert [check["result"] for check in read["checks"]] == [PASS, FAIL, SKIP]
    assert read["checks"][1]["said"] == "expected 200, got 404"
    assert "said" not in read["checks"][0]
    assert RESULTS[1].line.endswith("2.0 s: expected 200, got 404")


@pytest.mark.parametrize(
    ("results", "good"), [(RESULTS, False), (RESULTS[:1], True), (RESULTS[2:], False), ([], False)]
)
def test_a_run_passed_if_something_passed_and_nothing_failed(
    results: list[Result], good: bool
) -> None:
    assert passed(results) is good


# --- access to a cluster ---


def kubeconfig(cluster: dict[str, Any], user: dict[str, Any]) -> str:
    return yaml.safe_dump(
        {
            "clusters": [{"name": "other", "cluster": {}}, {"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "here",
        }
    )


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


CLUSTER = {"server": "https://192.0.2.1", "certificate-authority-data": encoded("authority")}


def test_the_current_context_is_used_and_data_is_written_to_files(tmp_path: Path) -> None:
    path = tmp_path / "config"
    data = {"client-certificate-data": encoded("cert"), "client-key-data": encoded("key")}
    path.write_text(kubeconfig(CLUSTER, data))
    access = read_access(path, tmp_path)
    assert access.server == "https://192.0.2.1"
    assert access.ca_file.read_text() == "authority"
    files = [path and path.read_text() for path in (access.cert_file, access.key_file)]
    assert files == ["cert", "key"]


def test_a_token_may_be_in_a_file_and_an_authority_beside_the_kubeconfig(tmp_path: Path) -> None:
    path = tmp_path / "config"
    (tmp_path / "token").write_text("secret\n")
    cluster = {"server": "https://192.0.2.1", "certificate-authority": "ca.crt"}
    path.write_text(kubeconfig(cluster, {"tokenFile": str(tmp_path / "token")}))
    access = read_access(path, tmp_path)
    assert (access.token, access.ca_file) == ("secret", tmp_path / "ca.crt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (kubeconfig(CLUSTER, {"exec": {"command": "login"}}), "kubectl create token"),
        (kubeconfig({"server": "https://192.0.2.1"}, {"token": "t"}), "certificate-authority"),
        ("clusters: []", "no kubeconfig"),
        ("- a list", "no kubeconfig"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(BadKubeconfig, match=said):
        read_access(path, tmp_path)


def test_the_command_line_says_what_is_tested() -> None:
    words = "--class foreign --kubeconfig config --image testbed:1 --subset-header x-subset"
    found = target(options(words.split()), nowhere().api)
    assert (found.gateway_class, found.images.simulated, found.subset_header) == (
        "foreign",
        "testbed:1",
        "x-subset",
    )


@pytest.mark.parametrize("words", ["", "--class foreign", "--class a --kubeconfig b --check none"])
def test_a_command_line_without_a_target_is_refused(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options(words.split())
    assert "error" in capsys.readouterr().err


def test_the_suite_for_other_gateways_imports_nothing_of_this_product() -> None:
    script = (
        "import sys, testbed.strict.__main__\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'epp_client'])"
    )
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert out == "[]\n"


# --- the page ---

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
PYTHON = ".venv/bin/python"


def commands(module: str) -> list[list[str]]:
    """The arguments of the page's commands that run a module."""
    begin = f"{PYTHON} -m {module} "
    return [line[len(begin) :].split() for line in PAGE.splitlines() if line.startswith(begin)]


def test_the_page_has_every_check() -> None:
    table = PAGE[PAGE.index("| checks |") : PAGE.index("### Against another gateway")]
    named = set(table.split("`")[1::2])
    assert set(CHECKS) <= named


def test_the_commands_of_the_page_are_understood() -> None:
    listing, against = commands("testbed.strict")
    module = [sys.executable, "-m", "testbed.strict"]
    done = subprocess.run([*module, *listing], capture_output=True, text=True, timeout=60)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CHECKS)
    found = options(against)
    assert (found.of_class, str(found.kubeconfig)) == ("NAME", "FILE")
    [proof] = commands("testbed.strict.proof")
    assert proof[0] == "--mutant"
    assert proof[1] in MUTANTS


def test_a_kubeconfig_that_is_not_there_is_one_line_on_stderr(tmp_path: Path) -> None:
    command = ["--class", "foreign", "--kubeconfig", str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, "-m", "testbed.strict", *command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("strict: ")
    assert done.stderr.count("\n") == 1
