"""What docs/running gives people to run it with: parsed by the tools it is for, and held against the program itself."""

import json
import re
import subprocess
from pathlib import Path

import openai
import pytest
import yaml

from wwwmarket.cli import COMMANDS, load

RUNNING = Path(__file__).parents[2] / "docs" / "running"
CHART = RUNNING / "chart"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SPRIG = "/usr/share/gocode/src/github.com/Masterminds/sprig"


def options_of(*words: str) -> set[str]:
    """The flags of a command of the program."""
    command = load(COMMANDS[words[0]].target)
    for word in words[1:]:
        command = command.commands[word]
    return {flag for param in command.params for flag in param.opts}


def check_command(words: list[str]) -> None:
    """That a command line, without the program's name, names a command and flags of it."""
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    assert set(flags) <= options_of(*words[:2]), words


@pytest.mark.foreign("systemd-analyze")
@pytest.mark.parametrize("unit", sorted(RUNNING.glob("*.service")), ids=lambda unit: unit.stem)
def test_systemd_accepts_each_unit(unit, tmp_path):
    """Without a warning, once the program is where it says; and the program knows what it is started with."""
    (start,) = re.findall(r"^ExecStart=/opt/wwwmarket/bin/wwwmarket (.*)$", unit.read_text(), re.MULTILINE)
    check_command(start.split(" "))
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace("/opt/wwwmarket/bin/wwwmarket", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []


def test_the_compose_file_starts_what_the_program_has():
    """Its commands and flags exist, what depends exists, and every named volume is declared."""
    compose = yaml.safe_load((RUNNING / "compose.yaml").read_text())
    services = compose["services"]
    for name in ("node", "provider"):
        check_command(services[name]["command"])
        assert set(services[name].get("depends_on", {})) <= set(services)
    mounted = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert mounted == set(compose["volumes"])


def test_the_image_runs_a_command_that_the_program_has():
    """The last line of the Dockerfile."""
    (line,) = re.findall(r"^CMD (.*)$", (RUNNING / "Dockerfile").read_text(), re.MULTILINE)
    check_command(json.loads(line))


@pytest.fixture(scope="module")
def helm(tmp_path_factory):
    """Renders the chart with some values changed; gives the documents by kind."""
    program = tmp_path_factory.mktemp("helm") / "render"
    offline = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "HOME": str(program.parent)}
    source = Path(__file__).parents[1] / "foreign" / "go" / "render.go"
    built = subprocess.run(
        ["go", "build", "-o", program, source],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin"} | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    asked = {
        "files": {path.name: path.read_text() for path in (CHART / "templates").iterdir()},
        "release": "r1",
        "chart": {"AppVersion": chart["appVersion"]},
    }

    def render(values=VALUES, **changed):
        with_values = asked | {"values": values | changed}
        done = subprocess.run([program], input=json.dumps(with_values), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr)
        documents = [yaml.safe_load(text) for text in json.loads(done.stdout).values()]
        return {document["kind"]: document for document in documents}

    return render


CHANGES = [
    {},
    {"node": VALUES["node"] | {"market": "http://a:8080", "relayFor": 4}, "advertise": "203.0.113.7:4433"},
    {"service": VALUES["service"] | {"hostPort": True}, "passphraseSecret": "keys"},
    {"role": "mirror", "mirror": {"log": "http://a:8080"}, "storage": {"size": "9Gi", "className": "fast"}},
]


@pytest.mark.foreign("go", SPRIG)
@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_the_chart_renders_what_holds_together(helm, changed):
    """The service selects the pod, ports and volumes that are named exist, and the program knows its flags."""
    documents = helm(**changed)
    service, stateful = documents["Service"]["spec"], documents["StatefulSet"]["spec"]
    pod = stateful["template"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert stateful["selector"]["matchLabels"] == service["selector"]
    assert stateful["serviceName"] == documents["Service"]["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    check_command(container["args"])
    ports = {port["name"]: port for port in container["ports"]}
    assert {port["targetPort"] for port in service["ports"]} == set(ports)
    assert container["readinessProbe"]["httpGet"]["port"] in ports
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    claims = {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes | claims
    assert container["image"].rpartition(":")[2]


@pytest.mark.foreign("go", SPRIG)
def test_a_mirror_without_a_log_is_refused_with_what_to_set(helm):
    """Before anything is installed."""
    with pytest.raises(ValueError, match=r"mirror\.log"):
        helm(role="mirror")


def test_every_value_of_the_chart_is_used():
    """A value that no template reads is a promise that nothing keeps."""
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())

    def leaves(values: dict[str, object], path: str):
        for name, value in values.items():
            whole = f"{path}.{name}"
            if isinstance(value, dict) and name != "resources":
                yield from leaves(value, whole)
            else:
                yield whole

    assert [leaf for leaf in leaves(VALUES, ".Values") if leaf not in templates] == []


ONLY_WHEN_IT_HAPPENS = {"wwwmarket_failovers_total", "wwwmarket_relayed_bytes_total"}


def test_each_metric_of_the_dashboard_is_measured(market, new_key, http):
    """A running market, bought from once, shows every name that a panel asks for; those of rare events are counted."""
    with openai.OpenAI(base_url=market.gateway, api_key=new_key("1")["key"], max_retries=0) as buyer:
        buyer.chat.completions.create(model=market.model, messages=[{"role": "user", "content": "hi"}], max_tokens=4)
    shown = http.get("/metrics").text
    for status in Path(market.data).glob("provider-*/running.json"):
        shown += http.get(json.loads(status.read_text())["gateway"] + "/metrics").text
    dashboard = json.loads((RUNNING / "dashboard.json").read_text())
    asked = set(re.findall(r"wwwmarket_\w+", json.dumps(dashboard["panels"]))) - ONLY_WHEN_IT_HAPPENS
    assert {name for name in asked if f"\n{name}" not in shown} == set()
    counted = "".join(path.read_text() for path in (RUNNING.parents[1] / "wwwmarket").rglob("*.py"))
    assert all(name.removeprefix("wwwmarket_") in counted for name in ONLY_WHEN_IT_HAPPENS)


def test_a_settings_file_that_the_page_shows_is_read(tmp_path):
    """Copied from docs/running, it starts no complaint."""
    from wwwmarket.cli.settings import check_settings, read_settings

    (shown,) = re.findall(r"```toml\n(.*?)```", (RUNNING / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "config.toml"
    file.write_text(shown)
    for name, settings in read_settings(file).items():
        check_settings(load(COMMANDS[name].target), settings, name)
