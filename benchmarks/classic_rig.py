"""The baseline: nginx with PHP-FPM doing the same jobs from JSON files, without durability or permits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from benchmarks.boot_nodes import SimulatedNode
from benchmarks.boot_rig import Nginx, free_ports, wait_for

SCRIPTS = Path(__file__).parent / "php"
FPM = """[global]
error_log = {folder}/fpm.log
daemonize = no
[www]
{user}
listen = {folder}/php.sock
pm = static
pm.max_children = 8
"""
SITE = """server {{
    listen 127.0.0.1:{port};
    server_tokens off;
    location /media/ {{ alias {media}/; sendfile on; tcp_nopush on; }}
    location ~ \\.php$ {{
        fastcgi_param SCRIPT_FILENAME {folder}/www$fastcgi_script_name;
        fastcgi_param QUERY_STRING $query_string;
        fastcgi_param REQUEST_METHOD $request_method;
        fastcgi_param CONTENT_TYPE $content_type;
        fastcgi_param CONTENT_LENGTH $content_length;
        fastcgi_param REMOTE_ADDR $remote_addr;
        fastcgi_pass unix:{folder}/php.sock;
    }}
}}
"""


class ClassicRig:
    """nginx with PHP-FPM for these nodes on `port`; /media/ there is plain nginx over `media`."""

    def __init__(self, folder: Path, nodes: list[SimulatedNode], media: Path) -> None:
        folder.mkdir()
        self._ends = ExitStack()
        shutil.copytree(SCRIPTS, folder / "www")
        (folder / "www" / "data").mkdir()
        known = [{"name": node.name, "mac": node.mac, "ip": node.address} for node in nodes]
        (folder / "www" / "data" / "nodes.json").write_text(json.dumps({"nodes": known}))
        self._begin_php(folder)
        (self.port,) = free_ports(1)
        nginx = Nginx(folder / "nginx", SITE.format(folder=folder, port=self.port, media=media))
        self._ends.callback(nginx.end)

    def __enter__(self) -> ClassicRig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def _begin_php(self, folder: Path) -> None:
        root = os.geteuid() == 0
        (folder / "fpm.conf").write_text(FPM.format(folder=folder, user="user = root" if root else ""))
        command: list[str | Path] = [
            php_fpm(),
            "--fpm-config",
            folder / "fpm.conf",
            *(["-R"] if root else []),
        ]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._ends.callback(process.wait, 30)
        self._ends.callback(process.terminate)
        wait_for(folder / "php.sock", process)


def php_fpm() -> str:
    """The newest PHP-FPM that is installed, or its bare name where there is none."""
    return max(map(str, Path("/usr/sbin").glob("php-fpm*")), default="php-fpm")
