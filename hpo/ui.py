"""``hpo ui``: Streamlit with the app, with settings that are safe to leave running.

- It listens on this machine unless told otherwise, and opens a session, over which all data go,
  to exact names only. (The page's own files, the same in every Streamlit app, go to any name.)
- Pages show no tracebacks, send no statistics, and serve nothing but the app.
- It ends with this process, with all that it started.

Not covered: users. Whoever reaches it sees every study and may stop a running one; so beyond this
machine it is started only when that is said.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from hpo.errors import HpoError, UserError
from hpo.listening import Listening
from hpo.paths import Home
from hpo.service import Service, asked_to_stop
from hpo.tracking import MLFLOW_DEFAULTS, MLFLOW_SETTINGS

PORT = 8501
START_S = 60.0
# Where the app finds them. An address may hold a password, so it stands in no command line.
HOME_VARIABLE, URI_VARIABLE = "HPO_UI_HOME", "HPO_UI_TRACKING_URI"

# app.charts.style.PALETTE, for charts that Streamlit draws itself.
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#9c5700", "#a37efa", "#7b93d1", "#757577"),
)
OPTIONS: dict[str, str | bool | int] = {
    "server.headless": True,
    "server.maxUploadSize": 1,  # MB; the app takes no files
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.fileWatcherType": "none",
    "server.runOnSave": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "viewer",
    "browser.gatherUsageStats": False,
    "runner.magicEnabled": False,
    # A full collection after each run holds everything up for 0.2 s where studies are long.
    "runner.postScriptGC": False,
    "logger.hideWelcomeMessage": True,
    "logger.level": "warning",
    "theme.paddingTop": "1.5rem",
    "theme.headingFontSizes": json.dumps(["2.75rem", "1.75rem"]),
    "theme.light.primaryColor": "#0072b2",
    # As text it contrasts 4.5:1 with its ground; captions are 60 % of the text's colour.
    "theme.dark.primaryColor": "#3b98d8",
    "theme.light.textColor": "#111111",
    "theme.light.chartCategoricalColors": json.dumps(COLORS),
    "theme.dark.chartCategoricalColors": json.dumps(COLORS),
}


def show(
    listening: Listening,
    home: Home,
    tracking_uri: str | None,
    study: str | None,
    told: Callable[[str], None],
    *,
    no_auth: bool = False,
) -> None:
    """Start it, call `told` with the page's address, return when Ctrl-C or SIGTERM has ended it.

    Args:
        tracking_uri: Where MLflow is; None: the home's embedded store.
        study: Whose page to open; None: the list of studies.
        no_auth: Whether everyone who reaches it may come in.

    Raises:
        UserError: It cannot be started so.
        HpoError: It failed, with what it last said.
    """
    if not home.root.is_dir():
        raise UserError(f"--home {home.root}: there is no such folder")
    if not (listening.is_local or no_auth):
        raise UserError(
            f"--host {listening.host} lets other machines in, and the app has no users; add "
            "--no-auth if everyone who reaches it may see all studies and stop running ones, or "
            f"reach it from afar with ssh -L {listening.port}:127.0.0.1:{listening.port}"
        )
    listening.check_free()
    page = f"/study?study={quote(study, safe='')}" if study else ""
    folder = _app_folder()
    environment = _environment(home, tracking_uri)
    with asked_to_stop() as asked:
        # In the app's folder, where no one else's .streamlit/config.toml lies.
        service = Service("Streamlit", _command(listening), environment, folder)
        with contextlib.closing(service):
            if service.wait_until_up(
                listening.to_connect, listening.port, "/_stcore/health", START_S, asked
            ):
                told(listening.url + page)
                service.wait(asked)


def open_browser(url: str) -> None:
    """Open the page for the person at this machine, if there is a screen."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in screens):
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(url)


def _app_folder() -> Path:
    """Where the app is, found without importing it."""
    found = importlib.util.find_spec("app")
    for folder in (found and found.submodule_search_locations) or ():
        if Path(folder, "serve.py").is_file():
            return Path(folder)
    raise HpoError("the app is not installed with hpo: pip install --force-reinstall hpo")


def _command(listening: Listening) -> list[str]:
    hosts = [host.strip("[]") for host in listening.hosts]
    settings = {
        **OPTIONS,
        "server.address": listening.host,
        "server.port": listening.port,
        "server.allowedHosts": hosts,
        "browser.serverAddress": hosts[0],
    }
    return [sys.executable, "-P", "-m", "app.serve", json.dumps(settings)]


def _environment(home: Home, tracking_uri: str | None) -> dict[str, str]:
    environment = MLFLOW_DEFAULTS | os.environ | MLFLOW_SETTINGS
    environment = {k: v for k, v in environment.items() if not k.startswith("STREAMLIT_")}
    environment |= {
        HOME_VARIABLE: str(home.root.resolve()),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop(URI_VARIABLE, None)
    if tracking_uri:
        environment[URI_VARIABLE] = tracking_uri
    return environment
