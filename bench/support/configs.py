"""Makes the peers' configurations: one process or thread each, kept connections to workers, no log of requests.

Each function takes the port to listen on, the workers' URLs and the folder for files. It returns the file's text.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from pwd import getpwuid

# More connections than any benchmark opens, so that none has to wait.
MOST_CONNECTIONS = 8192

Config = Callable[[int, Sequence[str], Path], str]


def haproxy(port: int, workers: Sequence[str], _: Path, balance: str = "roundrobin", maxconn: int | None = None) -> str:
    """Return a configuration for one thread. No worker gets more than `maxconn` jobs at once, if it is given."""
    cap = f" maxconn {maxconn}" if maxconn else ""
    servers = [f"  server w{number} {url.removeprefix('http://')} check{cap}" for number, url in enumerate(workers)]
    return "\n".join(
        [
            # One thread: several threads sometimes send one job more than maxconn allows.
            "global",
            "  nbthread 1",
            f"  maxconn {MOST_CONNECTIONS}",
            "defaults",
            "  mode http",
            "  http-reuse always",
            "  timeout connect 5s",
            "  timeout client 10m",
            "  timeout server 10m",
            "  timeout queue 10m",
            "listen jobs",
            f"  bind 127.0.0.1:{port}",
            f"  balance {balance}",
            "  option httpchk GET /v1/ping",
            "  default-server inter 5s",
            *servers,
            "",
        ]
    )


def nginx(port: int, workers: Sequence[str], folder: Path, max_conns: int = 0) -> str:
    """Return a configuration for one worker process. Temporary files, which it should not need, go to `folder`.

    With `max_conns`, no worker gets more jobs at once. nginx has no queue: it refuses jobs for which there is no room.
    """
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"  {place}_temp_path {folder}/nginx-{place};" for place in places)
    cap = f" max_conns={max_conns}" if max_conns else ""
    servers = "\n".join(f"    server {url.removeprefix('http://')}{cap};" for url in workers)
    return f"""\
user {getpwuid(os.geteuid()).pw_name};
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections {MOST_CONNECTIONS}; }}
http {{
{temporary}
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 128m;
  client_body_buffer_size 8m;
  upstream workers {{
{servers}
    keepalive 512;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_max_temp_file_size 0;
      proxy_read_timeout 10m;
    }}
  }}
}}
"""


def envoy(
    port: int, workers: Sequence[str], _: Path, balance: str = "ROUND_ROBIN", check_s: float | None = None
) -> str:
    """Return a configuration as JSON, which is also YAML.

    With `check_s`, Envoy pings each worker every `check_s` seconds, and retries jobs whose connection was refused.
    """

    def address(host: str, port: str) -> dict[str, object]:
        return {"address": {"socket_address": {"address": host, "port_value": int(port)}}}

    types = "type.googleapis.com/envoy.extensions"
    retries = {"retry_policy": {"retry_on": "connect-failure", "num_retries": 2}} if check_s else {}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "workers", "timeout": "600s", **retries}}
    check = {
        "interval": f"{check_s}s",
        "timeout": f"{check_s}s",
        "healthy_threshold": 1,
        "unhealthy_threshold": 2,
        "http_health_check": {"path": "/v1/ping"},
    }
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "jobs",
        "route_config": {"virtual_hosts": [{"name": "jobs", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}},
        ],
    }
    endpoints = [{"endpoint": address(*url.removeprefix("http://").split(":"))} for url in workers]
    most = {f"max_{what}": MOST_CONNECTIONS for what in ("connections", "pending_requests", "requests")}
    resources = {
        "listeners": [
            {
                **address("127.0.0.1", str(port)),
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }
        ],
        "clusters": [
            {
                "name": "workers",
                "type": "STATIC",
                "lb_policy": balance,
                "health_checks": [check] if check_s else [],
                "circuit_breakers": {"thresholds": [most]},
                "load_assignment": {"cluster_name": "workers", "endpoints": [{"lb_endpoints": endpoints}]},
            }
        ],
    }
    return json.dumps({"static_resources": resources})


def caddy(port: int, workers: Sequence[str], _: Path) -> str:
    """Return a Caddyfile for one process."""
    return f"""\
{{
  admin off
  auto_https off
  persist_config off
}}
http://127.0.0.1:{port} {{
  reverse_proxy {" ".join(workers)} {{
    lb_policy round_robin
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
"""
