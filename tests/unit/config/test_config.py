"""A good config.yaml is accepted, and each mistake in it is reported in one line."""

from pathlib import Path

import pytest

from router.config.load import ConfigError, WatchedFile, load, parse, read
from router.config.settings import Settings
from router.config.show import shown
from router.config.tenants import rules_of
from router.policy.tenants import TenantRule
from tests.support.files import put

# Nine lines that stand for nine to the eighth keys.
BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 9)
)


def test_empty_file_gives_the_defaults() -> None:
    """No key is required, not even workers."""
    settings = parse("", "config.yaml")
    assert settings.workers == ()
    assert (settings.timeout, settings.health_check_interval, settings.max_body_mb) == (300, 30, 128)
    assert (settings.max_buffered_mb, settings.client_body_timeout, settings.client_read_timeout) == (1024, 30, 60)
    assert (settings.routing_strategy, settings.batch.max_in_flight) == ("round_robin", 64)
    assert (settings.redis.url, settings.redis.prefix) == ("redis://localhost:6379/0", "sfr")
    check = settings.health_check
    assert (check.path, check.timeout, check.rise, check.fall) == ("/v1/ping", 5, 1, 2)
    assert (check.deep, check.deep_every) == (False, 4)


def test_worker_is_a_url_or_a_mapping() -> None:
    """A bare string is a URL, whose trailing slash is removed and whose host is in lower case."""
    settings = parse("workers: ['http://A:8080/', {url: 'https://b/x', weight: 3, max_concurrency: 4}]", "c")
    assert [(w.url, w.weight, w.max_concurrency) for w in settings.workers] == [
        ("http://a:8080", 1, None),
        ("https://b/x", 3, 4),
    ]


def test_tenant_has_the_defaults_for_all_that_is_not_said_of_it() -> None:
    """A name alone is a tenant; labels are sorted, each once."""
    text = "tenants: {run-7: , 'a.B_9': {weight: 3, labels: [gpu, big, gpu], client_budget: job+2}}"
    assert rules_of(parse(text, "c").tenants) == {
        "run-7": TenantRule(),
        "a.B_9": TenantRule(weight=3, labels=("big", "gpu"), client_budget="job+2"),
    }


def test_worker_s_labels_and_languages_are_sorted_and_each_there_once() -> None:
    """So two spellings of one worker are equal everywhere."""
    (worker,) = parse("workers: [{url: 'http://a', labels: [ib, gpu, ib], languages: [c++, R]}]", "c").workers
    assert (worker.labels, worker.languages, worker.memory_mb) == (("gpu", "ib"), ("R", "c++"), None)


def test_redis_url_in_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL replaces redis.url, and keeps the prefix."""
    monkeypatch.setenv("REDIS_URL", "redis://there:1/2")
    redis = parse("redis: {url: 'redis://here', prefix: mine}", "c").redis
    assert (redis.url, redis.prefix) == ("redis://there:1/2", "mine")
    assert parse("", "c").redis.url == "redis://there:1/2"


def test_discover_dns_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """DISCOVER_DNS replaces discover.dns and keeps the other keys; a bad one is told with the variable's name."""
    monkeypatch.setenv("DISCOVER_DNS", "blue-workers:8080")
    settings = parse("{discover: {dns: 'workers:1', labels: [gpu]}}", "c")
    assert (settings.discover.dns, settings.discover.labels) == ("blue-workers:8080", ("gpu",))
    monkeypatch.setenv("DISCOVER_DNS", "workers")
    with pytest.raises(ConfigError, match=r"discover\.dns: .*DISCOVER_DNS"):
        parse("", "c")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("timeouts: 3", "timeouts: unknown key; expected one of admin, adopt_seconds, api_keys, batch"),
        ("redis: {host: x}", "redis.host: unknown key; expected one of cluster, prefix, url"),
        ("workers: [{url: 'http://a', wight: 2}]", "workers[0].wight: unknown key; expected one of labels, languages"),
        ("workers: [ftp://a]", "workers[0].url: expected a URL such as http://server1:8080, got 'ftp://a'"),
        ("workers: ['http://a:99999']", "workers[0].url: expected a URL such as"),
        ("workers: ['http://']", "workers[0].url: expected a URL such as"),
        ("workers: ['http://user:pw@a']", "workers[0].url: expected a URL such as"),
        ("workers: ['http://a b']", "workers[0].url: expected a URL such as"),
        (
            "workers: ['http://a..b']",
            "workers[0].url: expected a URL such as http://server1:8080: a host's name is letters",
        ),
        ("workers: ['http://a?b']", "workers[0].url: expected a URL without ? or #"),
        ("workers: [5]", "workers[0]: expected"),
        ("workers: http://a", "workers: expected"),
        ("workers: ['http://a', 'http://A/']", "workers: expected each URL once; http://a is given twice"),
        ("workers: [{url: 'http://a', weight: -1}]", "workers[0].weight: expected greater than or equal to 1, got -1"),
        ("workers: [{url: 'http://a', max_concurrency: 0}]", "workers[0].max_concurrency: expected greater than"),
        ("workers: [{url: 'http://a', labels: gpu}]", "workers[0].labels: expected a list, got 'gpu'"),
        (
            "workers: [{url: 'http://a', labels: [gpu, 'a b']}]",
            "workers[0].labels[1]: expected 1 to 64 letters, digits and ._-, got 'a b'",
        ),
        (
            "workers: [{url: 'http://a', languages: ['a,b']}]",
            "workers[0].languages[0]: expected 1 to 64 letters, digits and ._+#-, such as python or c++, got 'a,b'",
        ),
        (
            f"workers: [{{url: 'http://a', labels: [{', '.join(f'l{number}' for number in range(65))}]}}]",
            "workers[0].labels: expected at most 64 items, got 65",
        ),
        ("workers: [{url: 'http://a', memory_mb: 0}]", "workers[0].memory_mb: expected greater than or equal to 1"),
        ("tenants: {a: {reuse: {}}}", "tenants.a.reuse.seconds: expected a value, got none"),
        ("health_check: {path: ping}", "health_check.path: expected a path such as /v1/ping, got 'ping'"),
        ("redis: {prefix: ''}", "redis.prefix: expected up to 200 characters, no blanks, got ''"),
        ("queue: {without_workers: 1e10}", "queue.without_workers: expected less than or equal to 1000000000, got"),
        ("discover: {labels: [5]}", "discover.labels[0]: expected a valid string, got 5"),
        ("default_job_memory_mb: 0", "default_job_memory_mb: expected greater than or equal to 1, got 0"),
        ("timeout: -1", "timeout: expected greater than 0, got -1"),
        ("timeout: '5'", "timeout: expected a valid number, got '5'"),
        ("max_body_mb: 2000", "max_buffered_mb: expected at least max_body_mb, which is 2000, got 1024.0"),
        ("max_buffered_mb: 2", "max_buffered_mb: expected at least max_body_mb, which is 128, got 2"),
        ("{max_body_mb: 2, max_buffered_mb: 1.5}", "max_buffered_mb: expected at least max_body_mb, which is 2, got"),
        ("client_body_timeout: 0", "client_body_timeout: expected greater than 0, got 0"),
        ("timeout: .inf", "timeout: expected a finite number"),
        ("health_check: {fall: 0}", "health_check.fall: expected greater than or equal to 1, got 0"),
        ("health_check: {deep_every: 0}", "health_check.deep_every: expected greater than or equal to 1, got 0"),
        ("health_check: {deep: 1}", "health_check.deep: expected a valid boolean, got 1"),
        ("health_check: {path: v1}", "health_check.path: "),
        ("routing_strategy: best", "routing_strategy: expected 'round_robin', 'random'"),
        ("queue: {aging: 0}", "queue.aging: expected greater than 0, got 0"),
        ("tenants: [a]", "tenants: expected keys and values"),
        (
            "tenants: {a b: {}}",
            "tenants.a b.[key]: expected a name of 1 to 64 characters, each of A-Z a-z 0-9 . ",
        ),
        (f"tenants: {{{'x' * 65}: }}", f"tenants.{'x' * 65}.[key]: expected a name of 1 to 64 characters"),
        ("tenants: {7: {}}", "tenants[7].[key]: expected a name in quotes, got 7"),
        ("tenants: {a: 3}", "tenants.a: expected keys and values"),
        ("tenants: {a: {wait: 1}}", "tenants.a.wait: unknown key; expected one of client_budget, labels, max_running"),
        ("tenants: {a: {weight: 0}}", "tenants.a.weight: expected greater than or equal to 1, got 0"),
        ("tenants: {a: {weight: 1001}}", "tenants.a.weight: expected less than or equal to 1000, got 1001"),
        ("tenants: {a: {priority: -101}}", "tenants.a.priority: expected greater than or equal to -100, got -101"),
        ("tenants: {a: {max_running: 0}}", "tenants.a.max_running: expected greater than or equal to 1, got 0"),
        ("tenants: {a: {max_waiting: -1}}", "tenants.a.max_waiting: expected greater than or equal to 0, got -1"),
        ("tenants: {a: {order: size}}", "tenants.a.order: expected 'arrival' or 'longest_first', got 'size'"),
        ("tenants: {a: {labels: gpu}}", "tenants.a.labels: expected a list, got 'gpu'"),
        ("tenants: {a: {labels: [a b]}}", "tenants.a.labels[0]: expected 1 to 64 letters"),
        ("tenants: {a: {client_budget: 0}}", "tenants.a.client_budget: expected none, job, job+N or N"),
        (f"tenants: {{{', '.join(f'a{each}: ' for each in range(1001))}}}", "tenants: expected at most 1000 tenants"),
        ("client_budget: jobs", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got 'jobs'"),
        ("client_budget: job+", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got 'job+'"),
        ("client_budget: job-2", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got 'job-2'"),
        (
            "client_budget: 'job+1e9'",
            "client_budget: expected none, job, job+N or N, in seconds from 1 on, got 'job+1e9'",
        ),
        (
            "client_budget: 'job + 2'",
            "client_budget: expected none, job, job+N or N, in seconds from 1 on, got 'job + 2'",
        ),
        ("client_budget: '12'", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got '12'"),
        ("client_budget: 0.5", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got 0.5"),
        ("client_budget: -3", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got -3"),
        ("client_budget: .nan", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got nan"),
        ("client_budget: .inf", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got inf"),
        ("client_budget: [1]", "client_budget: expected none, job, job+N or N, in seconds from 1 on"),
        (r'client_budget: "job+\u0661"', "client_budget: expected none, job, job+N or N, in seconds from 1 on"),
        ("client_budget: true", "client_budget: expected none, job, job+N or N, in seconds from 1 on, got True"),
        ("redis: {url: 'http://x'}", "redis.url: expected a URL such as redis://localhost:6379/0"),
        ("redis: {cluster: true}", "redis: expected a prefix with a hash tag, such as {sfr}, where cluster is true"),
        ("redis: {url: 'redis+sentinel://a'}", "redis.url: expected a URL such as redis+sentinel://host1:26379"),
        ("queue: {max_waiting: -1}", "queue.max_waiting: expected greater than or equal to 0, got -1"),
        ("breaker: {max_ejected_percent: 101}", "breaker.max_ejected_percent: expected less than or equal to 100"),
        ("workers_file: ''", "workers_file: "),
        ("discover: {dns: boxes}", "discover.dns: expected name:port such as sandbox-workers:8080, got 'boxes'"),
        ("discover: {dns: 'http://a:1'}", "discover.dns: expected name:port such as"),
        ("discover: {dns: 'a:0'}", "discover.dns: expected name:port such as"),
        ("workers: [{weight: 2}]", "workers[0].url: expected a value"),
        (
            "tenants: {a: {reuse: {seconds: 1, kb: 1}}}",
            "tenants.a.reuse.kb: unknown key; expected one of max_kb, s",
        ),
        ("admin: {token: x}", "admin.token: unknown key; expected one of allow_loopback, allowed_workers"),
        (
            "admin: {allowed_workers: ['10.0.0.0/33']}",
            "admin.allowed_workers[0]: expected a network such as 10.0.0.0/8",
        ),
        ("admin: {allowed_workers: ['10.0.0.5/8']}", "admin.allowed_workers[0]: expected a network such as 10.0.0.0/8"),
        ("admin: {allowed_workers: ['10.0.0.*']}", "admin.allowed_workers[0]: expected a network such as 10.0.0.0/8"),
        ("admin: {allowed_workers: ['http://a']}", "admin.allowed_workers[0]: expected a network such as 10.0.0.0/8"),
        ("admin: {allowed_workers: ['']}", "admin.allowed_workers[0]: expected a network such as 10.0.0.0/8"),
        ("admin: {allowed_workers: '*'}", "admin.allowed_workers: expected a list"),
        ("batch: {max_in_flight: 0}", "batch.max_in_flight: expected greater than or equal to 1, got 0"),
        ("tls: {crt: x}", "tls.crt: unknown key; expected one of ca, verify"),
        ("tls: {ca: ''}", "tls.ca: "),
        ("redis: 5", "redis: expected"),
        ("- a", "expected keys and values such as `timeout: 300`, got a list"),
        ("workers: [1, 2", "not valid YAML: line 1, column 15: expected ',' or ']'"),
        ("timeout: 2026-99-99", "timeout: expected a valid number, got '2026-99-99'"),
        ("timeout: !!bool maybe", "not valid YAML: line 1, column 10: a value that cannot be read"),
        ("timeout: !!timestamp x", "not valid YAML: line 1, column 10: a value that cannot be read"),
        ("timeout: 5\0", "not valid YAML: character 11: special characters are not allowed"),
        ('workers_file: "a\\0b"', "workers_file: expected the name of a file, got 'a\\x00b'"),
        ('tls: {ca: "\\ud800"}', "tls.ca: expected the name of a file, got '\\ud800'"),
        ('api_keys: "a\\0b"', "api_keys: expected the name of a file, got 'a\\x00b'"),
        (BOMB, "not valid YAML: line 6, column 5: too many merged keys"),
        (f"{BOMB.replace('<<: ', 'x: ')}workers: !!pairs [x: *a8]", "workers[0]: expected keys and values"),
    ],
)
def test_mistake_is_reported_with_file_key_and_expectation(text: str, told: str) -> None:
    """Each mistake has one message with its place and the expected value."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "my.yaml")
    message, *more = str(caught.value).splitlines()
    assert message.startswith(f"my.yaml: {told}"), message
    assert not more or text.startswith(BOMB[:5])


@pytest.mark.parametrize("budget", ["none", "job", "job+10", "job+2", "job+0.5", 12, 1, 30.5])
def test_client_budget_is_read_as_it_is_shown(budget: object) -> None:
    """The text that `sfr config show` and `sfr up` write is read as the same value."""
    settings = parse(f"client_budget: {budget}", "c")
    assert settings.client_budget == budget
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_all_mistakes_are_reported_at_once() -> None:
    """Two mistakes give two lines."""
    with pytest.raises(ConfigError) as caught:
        parse("{timeout: 0, max_body_mb: 0}", "c")
    assert len(str(caught.value).splitlines()) == 2


def test_bad_redis_url_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a password, which no message shows."""
    monkeypatch.setenv("REDIS_URL", "http://:secret@host")
    with pytest.raises(ConfigError) as caught:
        parse("", "c")
    assert "secret" not in str(caught.value)


def test_missing_file_is_reported_with_the_variable_to_set(tmp_path: Path) -> None:
    """The message names the variable that names the file."""
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file .*ROUTER_CONFIG"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="cannot be read: it is not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_the_repository_s_own_config_is_good() -> None:
    """config.yaml as shipped is accepted."""
    assert len(load(Path(__file__).parents[3] / "config.yaml").workers) == 2


@pytest.mark.parametrize(
    "key", ["timeout", "health_check_interval", "max_body_mb", "max_buffered_mb", "quarantine_seconds"]
)
@pytest.mark.parametrize(
    "value",
    [
        *("1.0e+308", "1e308", "1e400", ".inf", "-.inf", ".nan", "-1", "0", "9" * 400, "true", "yes", "010", "0x10"),
        *("1:30", "2026-01-01", "~x", "[5]", "{a: 5}", "'5'", "!!binary aGk=", "1_0_"),
    ],
)
def test_bad_number_is_reported_with_its_key(key: str, value: str) -> None:
    """Numbers that clocks cannot hold are rejected, and so are texts that YAML 1.1 reads as another number."""
    with pytest.raises(ConfigError) as caught:
        parse(f"{key}: {value}", "my.yaml")
    assert str(caught.value).startswith(f"my.yaml: {key}: ")
    assert "\n" not in str(caught.value).removesuffix("\n")


@pytest.mark.parametrize(
    ("key", "most"), [("default_max_concurrency", 10**9), ("queue.max_waiting", 10**9), ("retry.budget_percent", 10**9)]
)
def test_count_beyond_all_fleets_is_refused(key: str, most: int) -> None:
    """Lua, JSON or the dashboard could not represent such a count exactly."""
    section, _, name = key.rpartition(".")
    for value in (most + 1, 10**400):
        with pytest.raises(ConfigError, match=f"c: {key}: "):
            parse(f"{section}: {{{name}: {value}}}" if section else f"{name}: {value}", "c")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("timeout: 5\ntimeout: 6", "line 2, column 1: 'timeout' is given twice"),
        ("queue: {timeout: 5, timeout: 6}", "line 1, column 21: 'timeout' is given twice"),
        ("workers: " + "[" * 100_000, "line 1, column 59: nested too deeply"),
        ("a: !!int x", "line 1, column 4: a value that cannot be read"),
        ("a: !!python/object/apply:os.getpid []", "line 1, column 4: could not determine a constructor"),
        ("timeout: " + "9" * 5000, "line 1, column 10: a value that cannot be read"),
        ("prefix: a\x00b", "character 10: special characters are not allowed"),
        ("? [a]\n: b", "line 1, column 3: found unhashable key"),
    ],
)
def test_ambiguous_yaml_is_reported_with_its_place(text: str, told: str) -> None:
    """Duplicate keys, deep nesting and a tag that changes a value's type are mistakes."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "my.yaml")
    assert str(caught.value).startswith(f"my.yaml: not valid YAML: {told}")


def test_aliases_of_aliases_are_stopped_before_they_fill_memory() -> None:
    """One page of aliases would expand to a million million entries."""
    merged = "\n".join(f"b{n}: &b{n} {{y{n}: 1, <<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 13))
    with pytest.raises(ConfigError, match="too many merged keys"):
        parse(f"b0: &b0 {{x: 1}}\n{merged}", "c")
    listed = "\n".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]" for n in range(1, 13))
    with pytest.raises(ConfigError, match="b0: unknown key"):
        parse(f"b0: &b0 [x]\n{listed}", "c")
    with pytest.raises(ConfigError, match=r"workers\[0\]: expected"):
        parse("workers: &w [*w]", "c")


def test_anchors_still_work() -> None:
    """Workers may share keys through one anchor or two, and override some of them."""
    twice = "{workers: [&u {url: 'http://a'}, &w {url: 'http://b', weight: 4}, {<<: *w, <<: *u}]}"
    with pytest.raises(ConfigError, match="each URL once"):
        parse(twice, "c")
    text = "workers: [&big {url: 'http://a', weight: 4}, {<<: *big, url: 'http://b'}, {url: 'http://c', <<: *big}]"
    assert [(worker.url, worker.weight) for worker in parse(text, "c").workers] == [
        ("http://a", 4),
        ("http://b", 4),
        ("http://c", 4),
    ]


@pytest.mark.parametrize("scheme", ["http", "ftp", "redis", "http:/"])
@pytest.mark.parametrize(
    "text",
    [
        "workers: ['{url}']",
        "workers: [{{url: '{url}'}}]",
        "workers: '{url}'",
        "workers: [{{'{url}': 3}}]",
        "'{url}': 5",
        "{{'{url}': 5, '{url}': 6}}",
        "redis: '{url}'",
        "redis: {{url: '{url}', cluster: 5}}",
        "redis: {{prefix: '{url} x'}}",
        "traces: {{endpoint: '{url}'}}",
        "discover: {{dns: '{url}'}}",
        "timeout: '{url}'",
        "tls: {{ca: '{url}'}}",
        "routing_strategy: '{url}'",
        "admin: {{allowed_workers: ['{url}']}}",
        "health_check: {{path: '{url}'}}",
    ],
)
def test_no_message_shows_a_password(text: str, scheme: str) -> None:
    """No message has a password, at whichever key the URL is and whatever is wrong with it."""
    url = f"{scheme}://me:hunter2@host:x/y?token=hunter2&password=hunter2"
    with pytest.raises(ConfigError) as caught:
        parse(text.format(url=url), "c")
    assert "hunter2" not in str(caught.value)


def test_shown_configuration_has_no_password(tmp_path: Path) -> None:
    """People paste the output of `sfr config show` into tickets."""
    text = "{redis: {url: 'redis://me:hunter2@h?password=hunter2'}, health_check: {path: '/ping?token=hunter2'}}"
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "hunter2" not in shown(read(path))


@pytest.mark.parametrize("name", ["workers_file", "api_keys"])
def test_path_that_no_system_call_takes_is_refused(name: str) -> None:
    """A NUL would end the sidecar when it opens the file."""
    with pytest.raises(ConfigError, match=f"c: {name}: "):
        parse(f'{name}: "a\\0b"', "c")


@pytest.mark.parametrize(
    "value", ["http://:hunter2@host", "redis://h:x", "\udcff", "redis://me:hun#ter2@h:1", "x" * 10_000]
)
def test_environment_is_read_like_the_file(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A bad REDIS_URL or OpenTelemetry endpoint causes one printable line without a password."""
    for variable, key in (("REDIS_URL", "redis.url"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "traces.endpoint")):
        monkeypatch.setenv(variable, value)
        with pytest.raises(ConfigError) as caught:
            parse("", "c")
        monkeypatch.delenv(variable)
        message = str(caught.value)
        assert message.startswith(f"c: {key}: ")
        assert message.isprintable()
        assert "ter2" not in message
        assert len(message) < 500


def test_file_that_is_being_written_takes_effect_when_it_is_complete(tmp_path: Path) -> None:
    """A file written in place must look the same twice; one that replaces it, or its removal, counts at once."""
    path = tmp_path / "config.yaml"
    path.write_text("timeout: 5")
    watched = WatchedFile(path)
    assert [watched.has_changed(), watched.has_changed()] == [True, False]
    path.write_text("")  # an editor or `cat >` begins like this
    assert not watched.has_changed()
    path.write_text("timeout: 60")
    assert [watched.has_changed(), watched.has_changed(), watched.has_changed()] == [False, True, False]
    put(path, "timeout: 7")
    assert [watched.has_changed(), watched.has_changed()] == [True, False]
    path.unlink()
    assert [watched.has_changed(), watched.has_changed()] == [True, False]
    put(path, "timeout: 8")
    assert [watched.has_changed(), watched.has_changed()] == [True, False]
